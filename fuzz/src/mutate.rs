//! Changes of chance to inputs, for where no coverage guides: the same seed gives the same inputs.

/// A small generator of chance.
#[derive(Debug, Clone)]
pub struct Chance(u64);

/// What readers look for.
const WORDS: [&[u8]; 32] = [
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"\"\"",
    b"-1",
    b"0",
    b"9223372036854775808",
    b"1e400",
    b"0.1",
    b":",
    b",",
    b"\\",
    b"\"",
    b"{\"",
    b"\n",
    b"/",
    b"..",
    b"~1",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"$patch",
    b"$setElementOrder/",
    b"f:",
    b"k:{",
    b"&a",
    b"*a",
    b"- ",
    b"|",
    b"%",
    b"=",
];

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below a bound, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn span(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..(start + self.below(16)).min(length)
    }

    /// A seed, changed in a few places.
    pub fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..1 + self.below(4) {
            self.change(&mut input, seeds);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let span = self.span(input.len());
        match self.below(7) {
            0 => drop(input.drain(span)),
            1 => {
                let at = self.below(input.len() + 1);
                let copy = input[span].to_vec();
                input.splice(at..at, copy);
            }
            2 => {
                for at in span {
                    input[at] = self.below(256) as u8;
                }
            }
            3 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(span, word.iter().copied());
            }
            4 => {
                let at = self.below(input.len() + 1);
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                // The end of another seed.
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                input.truncate(span.start);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                if let Some(byte) = input.get_mut(span.start) {
                    *byte ^= 1 << self.below(8);
                }
            }
        }
    }
}
