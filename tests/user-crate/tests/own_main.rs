//! A test binary with its own `main`. It lists itself as one test, as nextest asks of such binaries.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    user_crate::worker().init();

    let arguments: Vec<_> = std::env::args().collect();
    let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    if has("--list") {
        if !has("--ignored") {
            println!("tour: test");
        }
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let tour = runtime.block_on(user_crate::tour())?;
    assert_eq!(tour, "HELLO 42 elsewhere");
    println!("own main: {tour}");
    Ok(())
}
