//! A program with a plain `main`, which makes its runtime itself.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    user_crate::worker().init();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("plain main: {}", runtime.block_on(user_crate::tour())?);
    Ok(())
}
