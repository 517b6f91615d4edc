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
    tonic_prost_build::configure().compile_fds(set.clone())?;
    // The server of streams once more, with messages down whose people are encoded already: `wire::down`.
    let down = out.join("down");
    std::fs::create_dir_all(&down)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(
            ".presence.bridge.v1.WatchResponse",
            "crate::wire::down::WatchResponse",
        )
        .extern_path(".presence.bridge.v1", "crate::wire::v1")
        .codec_path("crate::wire::down::SmallBuffers")
        .out_dir(down)
        .compile_fds(set)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
