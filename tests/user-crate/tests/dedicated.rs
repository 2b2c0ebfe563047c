//! A pool whose workers are a program of their own, in a test binary that declares no worker itself.

use std::process::{Command, Stdio};
use std::time::Duration;

use procpool::{Error, Pool};
use user_crate::{Double, tour_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_worker-program");

#[tokio::test]
async fn a_pool_runs_a_program_that_serves() -> Result<(), Error> {
    let pool = Pool::builder().workers(2).program(PROGRAM).build().await?;
    assert_eq!(tour_of(&pool).await?, "HELLO 42 elsewhere");
    pool.drain().await;
    assert!(pool.run(Double(1)).await.is_err_and(|error| error.is_closed()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_serves_has_an_environment_of_its_own() -> Result<(), Error> {
    let pool =
        Pool::builder().workers(1).program(PROGRAM).env_clear().current_dir("/").nice(1).build().await?;
    assert_eq!(tour_of(&pool).await?, "HELLO 42 elsewhere");
    pool.shutdown(Duration::ZERO).await;
    Ok(())
}

#[test]
fn a_program_that_serves_explains_itself_to_a_person() -> std::io::Result<()> {
    let output = Command::new(PROGRAM).stdin(Stdio::null()).output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("this program is a worker of a procpool pool"), "{words}");
    Ok(())
}
