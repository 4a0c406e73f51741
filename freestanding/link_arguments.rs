//! What the build scripts of the bootable images have in common.

/// Tells cargo how to link this package's programs: by `link.ld`, without a C library.
pub(crate) fn print() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("-Wl,-T,{directory}/../freestanding/link.ld");
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
    println!("cargo:rerun-if-changed=../freestanding");
    println!("cargo:rerun-if-changed=build.rs");
}
