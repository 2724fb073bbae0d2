//! Random numbers from the kernel, for identities. Nothing that decides uses them.

use std::fs::File;
use std::io::Read;

/// 64 random bits. Falls back to time and process id if the kernel gives none.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => crate::time::wall_ns().rotate_left(32) ^ u64::from(std::process::id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        assert_ne!(random_u64(), random_u64());
    }
}
