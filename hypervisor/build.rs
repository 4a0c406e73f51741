//! Link arguments of the bootable image.

fn main() {
    let Ok(directory) = std::env::var("CARGO_MANIFEST_DIR") else {
        return;
    };
    let script = format!("-Wl,-T,{directory}/image.ld");
    for argument in [
        // Neither crt1.o nor libc.
        "-nostdlib",
        "-static",
        // Ours come after rustc's -pie and win.
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=0x1000",
        "-Wl,--orphan-handling=error",
        "-Wl,--fatal-warnings",
        script.as_str(),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rerun-if-changed=image.ld");
    println!("cargo:rerun-if-changed=build.rs");
}
