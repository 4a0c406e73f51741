//! Measurements against Bochs and QEMU.

use crate::runner::cargo;
use crate::{initramfs, kernels, packages, root};

/// Boots Debian's cloud kernel everywhere and prints how long each took.
pub(crate) fn boot() -> Result<(), String> {
    packages::ensure()?;
    let kernels = kernels::ensure(&root())?;
    let image = initramfs::build(&kernels.busybox, &[])?;
    let initrd = root().join("target/kernels/boot.cpio");
    std::fs::write(&initrd, image).map_err(|error| format!("{}: {error}", initrd.display()))?;
    let status = cargo(&["bench", "--bench", "boot", "--"])
        .args([&kernels.cloud, &initrd])
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the measurement failed".to_owned())
    }
}
