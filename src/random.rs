//! Random bytes of the system: salts, secrets, identities.

use std::io;

/// Random bytes that nobody can foresee.
#[cfg(not(shuttle))]
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
    }
    Ok(bytes)
}

/// The bytes that a model checker draws, so that a schedule can be repeated.
#[cfg(shuttle)]
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    use shuttle::rand::RngCore;

    let mut bytes = [0; N];
    shuttle::rand::thread_rng().fill_bytes(&mut bytes);
    Ok(bytes)
}

/// A random number that is not zero, since zeros are what a torn create leaves.
pub(crate) fn number() -> io::Result<u64> {
    let number = bytes::<8>()?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    Ok(number.max(1))
}
