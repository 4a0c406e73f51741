//! Link arguments of the freestanding image.
fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("-Wl,-T,{directory}/link.ld");
    for argument in [
        // Neither crt1.o nor a C library.
        "-nostdlib",
        "-static",
        // After rustc's -pie, and so in its place.
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=0x1000",
        "-Wl,--orphan-handling=error",
        "-Wl,--fatal-warnings",
        &script,
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for file in ["link.ld", "build.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
}
