//! The shim's program: the zygote that the runtime starts, with a socket in the place of stdin.

fn main() -> std::process::ExitCode {
    match minik_shim::zygote::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let words = format!("minik-shim: {error}; the runtime starts this, with a socket as its stdin\n");
            // Nobody may be there to read it.
            let _ = std::io::stderr().write_all(words.as_bytes());
            std::process::ExitCode::FAILURE
        }
    }
}
