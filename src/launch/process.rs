//! The process of one worker, watched by the spawner thread.
