//! mmvisor's own calls; [`guest::abi`] documents them.

use mm::inspect::maps_text;

use super::{Context, Served};

/// `recover(address)`.
pub(super) fn recover(c: &mut Context<'_>) -> Served {
    Ok(c.process.set_recovery(c.args[0]))
}

/// `maps(buffer, length)`.
pub(super) fn maps(c: &mut Context<'_>) -> Served {
    let text = maps_text(&c.process.space.look());
    let length = usize::try_from(c.args[1]).unwrap_or(usize::MAX).min(text.len());
    c.write_bytes(c.address(0), &text.as_bytes()[..length])?;
    Ok(text.len() as u64)
}
