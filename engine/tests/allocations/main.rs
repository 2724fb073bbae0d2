//! The engine allocates nothing after its start, whatever becomes of the tasks it is given.
//!
//! A binary of its own, because the crate that counts takes the place of the allocator. Counted is what the calls of the engine
//! allocate, on their thread; writing groups to a disk that is simulated is the daemon's part and is not counted. What comes and
//! goes more seldom than tasks may allocate: sessions of clients and workers (their names, the lists of what a worker
//! holds), and large payloads and results, which go to files.

#[cfg(test)]
mod lives;
