//! A program that may be built with `panic = "abort"`: prints how a task ends that panics, and that the next one is done.

use procpool::{Error, Pool};
use user_crate::{Double, Panic};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    user_crate::worker().init();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(tell())?);
    Ok(())
}

async fn tell() -> Result<String, Error> {
    let pool = Pool::builder().workers(1).build().await?;
    let Err(error) = pool.run(Panic("far too much".to_owned())).await else {
        return Ok("no panic".to_owned());
    };
    let said = if error.stderr().contains("far too much") { "said so" } else { "said nothing" };
    let signal = error.exit().and_then(|exit| exit.signal()).unwrap_or_default();
    let double = pool.run(Double(21)).await?;
    pool.drain().await;
    Ok(format!("{:?} {signal} {said}, {:?}, {double}", error.kind(), error.hint()))
}
