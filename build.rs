//! Compiles `proto/` with protox, so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let set = protox::compile(
        [
            "presence/bridge/v1/presence.proto",
            "presence/bridge/v1/enrollment.proto",
        ],
        ["proto"],
    )?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(
        out.join("descriptor.bin"),
        prost::Message::encode_to_vec(&set),
    )?;
    tonic_prost_build::configure().compile_fds(set)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
