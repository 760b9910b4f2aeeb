//! Compiles the interface's definition, without a protoc binary.

const DEFINITIONS: [&str; 2] = ["runtime/v1/api.proto", "minik/runtime/v1/images.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(DEFINITIONS, ["proto"])?;
    tonic_prost_build::configure().bytes(".minik.runtime.v1").compile_fds(descriptors)?;
    Ok(())
}
