//! The arguments of benches that repeat rounds at several sizes: `[ROUNDS [SIZE ..]]`.

use crate::Failure;

/// How many rounds, at least one, and at which sizes.
///
/// # Errors
/// One of the arguments is no number.
pub fn rounds_and_sizes(rounds: usize, sizes: &[u32]) -> Result<(usize, Vec<u32>), Failure> {
    let mut given = std::env::args().skip(1);
    let rounds = given.next().map_or(Ok(rounds), |given| given.parse())?;
    let mut chosen = given
        .map(|size| size.parse())
        .collect::<Result<Vec<u32>, _>>()?;
    if chosen.is_empty() {
        chosen = sizes.to_vec();
    }
    Ok((rounds.max(1), chosen))
}
