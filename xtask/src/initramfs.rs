//! An initial RAM file system: busybox and a script, as a cpio archive in the "new" format.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Major and minor number of /dev/console.
const CONSOLE: (u32, u32) = (5, 1);

/// What is run first: it looks at the machine, works for a moment and switches off. With
/// `posthaste.shell` on the kernel's command line it becomes a shell instead; with
/// `posthaste.pingpong` two processes on two CPUs first wake each other 2000 times, and with
/// `posthaste.work=NAME:ROUNDS,...` a program beside busybox sends IPIs; with `posthaste.clock=SECONDS`
/// another looks at clocks and timers for so long; with `posthaste.freeze=SECONDS` the machine is suspended to
/// idle until the real-time clock's alarm; with `posthaste.kexec=1` another kernel starts from this one, with
/// `posthaste.crash=1` when this one panics, which it then does, and with `posthaste.vmcore=1` that one looks
/// at what the panicked one left; and with `posthaste.kvm=ROUNDS` KVM's modules are
/// loaded, kvm-intel with `posthaste.kvm_options=NAME=VALUE,...`, and a virtual machine's processors send IPIs; with
/// `posthaste.qemu=N` QEMU boots a kernel on N virtual processors of KVM's, whose console is shown behind `inner: `. Lines that begin with `#ph` are for programs. A machine that resets itself has failed.
const INIT: &str = r##"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "#ph linux nproc=$(nproc) clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
case "$(cat /proc/cmdline)" in
*posthaste.shell*) exec setsid cttyhack sh ;;
*posthaste.pingpong*)
    mkfifo /tmp/there /tmp/back
    taskset 2 sh -c 'while read x; do echo $x; done < /tmp/there > /tmp/back' &
    taskset 1 sh -c '
        exec 3> /tmp/there 4< /tmp/back
        i=0
        while [ $i -lt 2000 ]; do
            echo $i >&3
            read y <&4
            [ "$i" = "$y" ] || break
            i=$((i + 1))
        done
        echo "#ph pingpong rounds=$i"'
    ;;
esac
verdict=pass
before=$(cut -d. -f1 /proc/uptime)
sleep 1
echo "#ph slept uptime=$(($(cut -d. -f1 /proc/uptime) - before))"
for word in $(cat /proc/cmdline); do
    case "$word" in
    posthaste.work=*) ipi_workload $(echo "${word#*=}" | tr :, "  ") || verdict=fail ;;
    posthaste.kvm=*)
        options=$(sed -n 's/.*posthaste.kvm_options=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' ')
        insmod /lib/irqbypass.ko && insmod /lib/kvm.ko && insmod /lib/kvm-intel.ko $options || verdict=fail
        echo "#ph kvm enable_ipiv=$(cat /sys/module/kvm_intel/parameters/enable_ipiv)"
        kvm_ipis "${word#*=}" || verdict=fail
    ;;
    posthaste.qemu=*)
        insmod /lib/irqbypass.ko && insmod /lib/kvm.ko && insmod /lib/kvm-intel.ko || verdict=fail
        qemu-system-x86_64 -L /lib/qemu -accel kvm -cpu host -smp "${word#*=}" -m 192 -nodefaults -no-user-config -no-reboot \
            -display none -serial stdio -kernel /lib/guest/kernel -initrd /lib/guest/initrd -append "console=ttyS0 panic=-1" \
            < /dev/null 2>&1 | sed 's/^/inner: /' || verdict=fail
    ;;
    posthaste.freeze=*)
        echo "+${word#*=}" > /sys/class/rtc/rtc0/wakealarm && echo freeze > /sys/power/state || verdict=fail
        echo "#ph woke alarm=$(cat /sys/class/rtc/rtc0/wakealarm)"
    ;;
    posthaste.kexec=*)
        kexec /lib/guest/kernel /lib/guest/initrd "$(sed 's/posthaste.kexec=[^ ]*//' /proc/cmdline)"
        verdict=fail
    ;;
    posthaste.crash=*)
        kexec --crash /lib/guest/kernel /lib/guest/initrd \
            "console=ttyS0 quiet panic=-1 cryptomgr.notests nr_cpus=1 posthaste.vmcore=1" || verdict=fail
        echo "#ph crash loaded=$(cat /sys/kernel/kexec_crash_loaded)"
        echo c > /proc/sysrq-trigger
    ;;
    posthaste.vmcore=*) echo "#ph vmcore $(head -c 4 /proc/vmcore | tail -c 3)" ;;
    posthaste.clock=*) clock_check "${word#*=}" || verdict=fail ;;
    esac
done
cat /proc/interrupts
echo "#ph warnings begin"
dmesg -r | grep -iE '^<[0-4]>|warning|oops|lockup|unstable|unable|bug:|call trace|refused'
echo "#ph warnings end"
dmesg | grep 'APIC routing'
echo "#ph linux verdict=$verdict"
stty -F /dev/ttyS0 > /dev/null
[ $verdict = pass ] || reboot -f
poweroff -f
"##;

/// An archive as it grows.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            // User, group, links, time.
            0,
            0,
            1,
            0,
            content.len() as u32,
            // The device that it is on, the device that it is.
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            // A checksum that this format does not use.
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, (0, 0), &[]);
    }
}

/// A file of the archive that runs or is loaded by what runs.
pub(crate) struct File<'a> {
    /// Its path in the archive, without the first slash.
    pub(crate) name: &'a str,
    /// Where it is here.
    pub(crate) source: &'a Path,
}

/// The archive: busybox, and what is put beside it.
pub(crate) fn build(busybox: &Path, files: &[File<'_>]) -> Result<Vec<u8>, String> {
    let mut archive = Archive::default();
    let mut directories: BTreeSet<&str> = ["bin", "dev", "proc", "sys", "tmp"].into();
    for file in files {
        // Parents sort before what is in them.
        directories.extend(
            file.name
                .match_indices('/')
                .map(|(end, _)| &file.name[..end]),
        );
    }
    for name in directories {
        archive.directory(name);
    }
    archive.entry("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
    archive.entry("init", PROGRAM, (0, 0), INIT.as_bytes());
    let busybox = File {
        name: "bin/busybox",
        source: busybox,
    };
    for file in [&busybox].into_iter().chain(files) {
        let content = std::fs::read(file.source)
            .map_err(|error| format!("{}: {error}", file.source.display()))?;
        archive.entry(file.name, PROGRAM, (0, 0), &content);
    }
    archive.entry("TRAILER!!!", 0, (0, 0), &[]);
    Ok(archive.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_numbered() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.entry("a", PROGRAM, (0, 0), b"xyz");
        // Header and "bin\0" are 114 bytes, padded to 116; header and "a\0" 112, and 4 of content.
        assert_eq!(archive.bytes.len(), 116 + 112 + 4);
        assert_eq!(&archive.bytes[116..130], b"07070100000002");
        assert_eq!(&archive.bytes[228..232], b"xyz\0");
        assert!(build(Path::new("/nonexistent"), &[]).is_err());
    }
}
