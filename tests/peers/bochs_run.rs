//! Running Bochs without a screen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A Bochs that is running, with its serial port's text in a file. It ends when this is dropped.
pub(crate) struct Bochs {
    child: Child,
    serial: PathBuf,
    directory: PathBuf,
}

/// What differs between machines in Bochs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Number of processors.
    pub(crate) processors: u32,
    /// RAM in MiB.
    pub(crate) memory: u32,
    /// Instructions in an emulated second: timers fire by it. Few make guests quick that wait.
    pub(crate) instructions_per_second: u32,
    /// Whether unknown MSRs read as 0, as Linux expects of a processor older than it thinks.
    pub(crate) ignore_unknown_msrs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            processors: 1,
            memory: 256,
            instructions_per_second: 4_000_000,
            ignore_unknown_msrs: false,
        }
    }
}

impl Bochs {
    /// Starts Bochs 2.7 as an 11th-generation Core, from a CD image. Its files are kept in
    /// `directory`.
    pub(crate) fn start(directory: &Path, iso: &Path, settings: &Settings) -> Self {
        // What a run before left would be taken for this one's.
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).unwrap();
        let serial = directory.join("serial.txt");
        let configuration = format!(
            "megs: {}\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             cpu: model=tigerlake, count={}, ips={}, reset_on_triple_fault=0, ignore_bad_msrs={}\n\
             clock: sync=none\n\
             ata0-master: type=cdrom, path={}, status=inserted\n\
             boot: cdrom\n\
             com1: enabled=1, mode=file, dev={}\n\
             log: {}\n\
             panic: action=fatal\n\
             error: action=report\n\
             info: action=ignore\n\
             debug: action=ignore\n\
             sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
             display_library: rfb, options=\"timeout=0\"\n",
            settings.memory,
            settings.processors,
            settings.instructions_per_second,
            u32::from(settings.ignore_unknown_msrs),
            iso.display(),
            serial.display(),
            directory.join("log.txt").display(),
        );
        fs::write(directory.join("bochsrc"), configuration).unwrap();
        // Debian's build has the debugger, which waits for a command.
        fs::write(directory.join("commands"), "c\n").unwrap();
        let output = fs::File::create(directory.join("output.txt")).unwrap();
        let child = Command::new("bochs")
            .current_dir(directory)
            .args(["-q", "-f", "bochsrc", "-rc", "commands"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("bochs starts");
        Self {
            child,
            serial,
            directory: directory.to_owned(),
        }
    }

    /// What came out of the serial port so far.
    pub(crate) fn serial(&self) -> String {
        let bytes = fs::read(&self.serial).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the serial text satisfies `until` or Bochs has ended; gives the text, and panics
    /// with it when `limit` is over.
    pub(crate) fn wait(&mut self, limit: Duration, mut until: impl FnMut(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            // Before the text is read: what Bochs wrote at its end is in it.
            let ended = self.child.try_wait().unwrap().is_some();
            let text = self.serial();
            if ended || until(&text) {
                return text;
            }
            assert!(
                start.elapsed() < limit,
                "Bochs did not come to the end in {limit:?} ({}):\n{text}",
                self.directory.display()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Bochs {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
