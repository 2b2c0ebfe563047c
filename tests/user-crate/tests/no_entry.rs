//! A test binary whose author forgot the worker's entry.

use procpool::Pool;

#[tokio::test]
async fn the_error_names_the_macro_that_is_missing() {
    let Err(error) = Pool::builder().workers(1).build().await else { panic!("there is no worker to be had") };
    assert!(error.to_string().contains("worker_test!"), "{error}");
}
