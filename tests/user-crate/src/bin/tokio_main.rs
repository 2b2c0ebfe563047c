//! A program whose `main` has a runtime before the worker's entry is reached.

#[tokio::main]
async fn main() -> Result<(), procpool::Error> {
    user_crate::worker().init();

    println!("tokio main: {}", user_crate::tour().await?);
    Ok(())
}
