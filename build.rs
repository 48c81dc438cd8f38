//! Links debug builds of the program without position independence. The dynamic linker would otherwise patch 2 MB of it
//! at each start, and the tests start it thousands of times.

#[allow(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "debug") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
