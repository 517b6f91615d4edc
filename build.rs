//! Compiles `proto/` with protox, so that no `protoc` is needed on the machine.

use protox::prost_reflect::prost_types::MethodDescriptorProto;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut set = protox::compile(
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
    // The server of streams once more, without the call that opens them: its messages down are made in `wire::down`.
    for file in &mut set.file {
        file.service.retain(|service| {
            service
                .method
                .iter()
                .any(MethodDescriptorProto::server_streaming)
        });
        for service in &mut file.service {
            service.method.retain(|call| !call.server_streaming());
        }
    }
    let down = out.join("down");
    std::fs::create_dir_all(&down)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".presence.bridge.v1", "crate::wire::v1")
        .out_dir(down)
        .compile_fds(set)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
