//! Devices under version 2: a small program in the kernel that is asked for each access.

use super::{CgroupError, DeviceRule, failed};
use crate::sys;
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// An instruction: operation, destination and source register, jump, number.
fn instruction(operation: u8, to: u8, from: u8, jump: i16, number: i32) -> u64 {
    u64::from(operation)
        | u64::from(to | from << 4) << 8
        | u64::from(jump as u16) << 16
        | u64::from(number as u32) << 32
}

const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const UNLESS_NUMBER: u8 = 0x55;
const UNLESS_REGISTER: u8 = 0x5d;
const END: u8 = 0x95;

/// What the program gives back.
const RESULT: u8 = 0;
/// Where the kernel puts what it asks: three words (kind and access, major, minor).
const ASKED: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The program that allows what one of the rules allows.
fn program(rules: &[DeviceRule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, ASKED, 0, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, ASKED, 4, 0),
        instruction(LOAD_WORD, MINOR, ASKED, 8, 0),
    ];
    for rule in rules {
        program.extend(one(rule));
    }
    program.extend([instruction(SET, RESULT, 0, 0, 0), instruction(END, 0, 0, 0, 0)]);
    program
}

/// A rule's part: it ends the program when everything fits, and otherwise goes on behind itself.
fn one(rule: &DeviceRule) -> Vec<u64> {
    let kind = if rule.kind == 'b' { 1 } else { 2 };
    let bits = [('m', 1), ('r', 2), ('w', 4)];
    let allowed = bits.iter().filter(|(letter, _)| rule.access.contains(*letter)).map(|(_, bit)| bit).sum();
    // Jumps are filled in once it is known how long this part is.
    let mut part = vec![
        instruction(UNLESS_NUMBER, KIND, 0, 0, kind),
        instruction(COPY, SCRATCH, ACCESS, 0, 0),
        instruction(AND, SCRATCH, 0, 0, allowed),
        instruction(UNLESS_REGISTER, SCRATCH, ACCESS, 0, 0),
    ];
    let numbers = [(MAJOR, rule.major), (MINOR, rule.minor)];
    for (register, number) in numbers.into_iter().filter_map(|(register, number)| Some((register, number?))) {
        part.push(instruction(UNLESS_NUMBER, register, 0, 0, number as i32));
    }
    part.extend([instruction(SET, RESULT, 0, 0, 1), instruction(END, 0, 0, 0, 0)]);
    let length = part.len();
    for (index, instruction) in part.iter_mut().enumerate() {
        if [UNLESS_NUMBER, UNLESS_REGISTER].contains(&(*instruction as u8)) {
            *instruction |= ((length - index - 1) as u64) << 16;
        }
    }
    part
}

/// Allows these devices and no other to what runs in the cgroup at `folder`.
pub(super) fn attach(folder: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty());
    let cgroup = opened.map_err(|error| failed("open", folder)(error.into()))?;
    sys::attach_device_program(&cgroup, &program(rules))
        .map_err(|error| failed("restrict the devices of", folder)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_jumps_behind_itself() {
        let part = one(&DeviceRule::new('c', Some(1), Some(3), "rw"));
        let jumps: Vec<_> = part.iter().map(|instruction| (*instruction >> 16) as u16).collect();
        assert_eq!(jumps, [7, 0, 0, 4, 3, 2, 0, 0]);
        assert_eq!(part[2] >> 32, 6, "read and write");
        assert_eq!(one(&DeviceRule::new('b', None, None, "m")).len(), 6);
    }
}
