//! Lets the simulator plant a bug in the real scheduler, to prove that it would be caught. Outside tests it is the
//! constant `false`; it holds no bug itself.

/// Whether this bug is planted in this scheduler.
#[cfg(test)]
macro_rules! planted {
    ($scheduler:expr, $bug:ident) => {
        $scheduler.bug == Some($crate::sched::sim::Bug::$bug)
    };
}

/// Whether this bug is planted in this scheduler: never.
#[cfg(not(test))]
macro_rules! planted {
    ($scheduler:expr, $bug:ident) => {
        false
    };
}
