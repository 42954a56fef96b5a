//! The shortest acts that still show a difference.

use super::act::Act;
use super::run::Difference;

/// Leaves out acts, many at once and then fewer, for as long as a difference remains.
pub fn shrink(
    mut acts: Vec<Act>,
    mut difference: Difference,
    mut compare: impl FnMut(&[Act]) -> Option<Difference>,
) -> (Vec<Act>, Difference) {
    acts.truncate(difference.act + 1);
    let mut size = acts.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < acts.len() {
            let mut fewer = acts.clone();
            let end = (at + size).min(acts.len());
            // Descriptors are numbered in the order in which they are opened.
            let kept =
                fewer.splice(at..end, std::iter::empty()).filter(Act::opens).collect::<Vec<_>>();
            if kept.len() == end - at {
                at = end;
                continue;
            }
            let _ = fewer.splice(at..at, kept);
            match compare(&fewer) {
                Some(found) => {
                    fewer.truncate(found.act + 1);
                    (acts, difference) = (fewer, found);
                }
                None => at = end,
            }
        }
        size /= 2;
    }
    (acts, difference)
}
