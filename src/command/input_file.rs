//! Files that the command reads. None is trusted to end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::CommandError;

/// What a file that gzip compressed begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const KERNEL: &str = "read the kernel";

/// Reads a file of at most `most` bytes.
pub(super) fn read(what: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, CommandError> {
    File::open(path)
        .and_then(|file| read_at_most(file, most))
        .map_err(|source| CommandError::File {
            what,
            path: path.to_owned(),
            source,
        })
}

/// Reads a kernel of at most `most` bytes and makes sure that it is one. One that gzip compressed, as hypervisors
/// often are in /boot, is decompressed.
pub(super) fn read_kernel(path: &Path, most: u64) -> Result<Vec<u8>, CommandError> {
    let mut kernel = read(KERNEL, path, most)?;
    if kernel.starts_with(&GZIP) {
        let decoder = flate2::read::MultiGzDecoder::new(kernel.as_slice());
        kernel = read_at_most(decoder, most).map_err(|source| CommandError::File {
            what: KERNEL,
            path: path.to_owned(),
            source,
        })?;
    }
    match firmware::boot::detect(&kernel) {
        Ok(_) => Ok(kernel),
        Err(error) => Err(CommandError::Kernel {
            path: path.to_owned(),
            source: error.into(),
        }),
    }
}

fn read_at_most(source: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {most} bytes, which is the most that can be used of it"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_refused() {
        assert_eq!(read_at_most(&b"abc"[..], 3).unwrap(), b"abc");
        for (source, most) in [
            (Box::new(io::repeat(0)) as Box<dyn Read>, 1 << 20),
            (Box::new(&b"abc"[..]), 2),
        ] {
            let error = read_at_most(source, most).unwrap_err().to_string();
            assert!(
                error.contains(&format!("larger than {most} bytes")),
                "{error}"
            );
        }
    }
}
