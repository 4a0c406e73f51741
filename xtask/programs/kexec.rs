//! `kexec KERNEL RAM_DISK COMMAND_LINE`: starts another kernel from this one. `kexec --crash KERNEL RAM_DISK
//! COMMAND_LINE`: has it ready for when this one panics (Linux, kexec_file_load(2)).

use std::arch::asm;
use std::ffi::CString;
use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;

const SYS_REBOOT: u64 = 169;
const SYS_KEXEC_FILE_LOAD: u64 = 320;
/// KEXEC_FILE_ON_CRASH.
const ON_CRASH: u64 = 2;
/// LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2 and LINUX_REBOOT_CMD_KEXEC.
const REBOOT: [u64; 5] = [0xfee1_dead, 0x2812_1969, 0x4558_4543, 0, 0];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn system_call(number: u64, arguments: [u64; 5]) -> Result<u64> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: i64;
    // SAFETY: the callers pass numbers and pointers to memory that they own, as the call asks for.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second,
             in("rdx") third, in("r10") fourth, in("r8") fifth, out("rcx") _, out("r11") _);
    }
    u64::try_from(result).map_err(|_| Error::from_raw_os_error((-result) as i32).into())
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let crash = arguments.first().is_some_and(|first| first == "--crash");
    if crash {
        arguments.remove(0);
    }
    let [kernel, ram_disk, command_line] = arguments
        .try_into()
        .map_err(|_| "usage: kexec [--crash] KERNEL RAM_DISK COMMAND_LINE")?;
    let (kernel, ram_disk) = (File::open(kernel)?, File::open(ram_disk)?);
    let command_line = CString::new(command_line)?;
    let length = command_line.as_bytes_with_nul().len() as u64;
    system_call(
        SYS_KEXEC_FILE_LOAD,
        [
            kernel.as_raw_fd() as u64,
            ram_disk.as_raw_fd() as u64,
            length,
            command_line.as_ptr() as u64,
            if crash { ON_CRASH } else { 0 },
        ],
    )?;
    if !crash {
        system_call(SYS_REBOOT, REBOOT)?;
    }
    Ok(())
}
