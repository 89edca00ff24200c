//! What the allocator keeps of memory that nobody uses any more, and how the system gets it back.

/// Gives the system back whatever whole pages the allocator holds free. `false`: there were none, or this allocator cannot.
///
/// Takes the lock of one of glibc's arenas after another, for as long as it looks through it: a thread that allocates from that arena
/// waits meanwhile. Not for a thread that serves sockets.
///
/// # Why there is an `unsafe` here
/// glibc gives memory back by itself only from the end of an arena, and something that lives stands there next to always: of what
/// 5,000 sessions took, all stays after they have left, and a twentieth with this. The other ways were measured, too
/// (`benches/README.md`): another allocator is more C code, with a thread of its own. No crate offers this call in safe words.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call of the C library; see above")]
pub fn give_back() -> bool {
    // SAFETY: malloc_trim(3) takes a number of bytes, no pointer, is thread-safe, and touches only memory that is free.
    unsafe { libc::malloc_trim(0) == 1 }
}

/// Not glibc: there is no such call.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn give_back() -> bool {
    false
}
