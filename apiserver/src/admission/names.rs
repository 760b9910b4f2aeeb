//! Generated names, as upstream makes them.

use minik_component::Chance;

/// No vowels, and no digits that look like some: no words come of it by chance.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const LENGTH: usize = 5;

/// The prefix and five characters by chance.
pub fn generate(prefix: &str, chance: &dyn Chance) -> String {
    let letter = || char::from(LETTERS[(chance.below(LETTERS.len() as u64)) as usize]);
    prefix.chars().chain(std::iter::repeat_with(letter).take(LENGTH)).collect()
}
