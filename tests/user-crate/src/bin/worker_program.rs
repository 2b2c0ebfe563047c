//! A program that is a worker and nothing else.

fn main() {
    user_crate::worker().serve()
}
