//! The kernel's tables: what stands in them is read, and only what is another is written, in one transaction.

use crate::book::{Book, Change};
use crate::config::Settings;
use crate::nft;
use crate::rules::{Endpoint, Entry, Frontend, List, Value};
use minik_net::nftables::{Batch, Element, Family, NfTables, SetName};
use minik_net::{NetNs, Result, nft as command};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A family's table, as far as it is known.
#[derive(Debug, Default)]
struct Table {
    /// It is there, whole and of this version.
    there: bool,
    /// Something is there that is not.
    stale: bool,
    /// There are chains for up to so many endpoints.
    counts: u16,
    /// There are chains that remember for these times.
    seconds: BTreeSet<u32>,
}

/// This program's tables in a network namespace, and no others.
#[derive(Debug)]
pub struct Kernel {
    nft: NfTables,
    ns: NetNs,
    settings: Settings,
    tables: [(Family, Table); 2],
}

impl Kernel {
    /// Opens a namespace's tables; [`Kernel::read`] comes first.
    pub fn open(ns: NetNs, settings: Settings) -> Result<Kernel> {
        let nft = NfTables::open_in(&ns)?;
        let tables = [Family::Ip, Family::Ip6].map(|family| (family, Table::default()));
        Ok(Kernel { nft, ns, settings, tables })
    }

    /// Deletes the tables.
    pub fn clean_up(ns: &NetNs, table: &str) -> Result<()> {
        ns.run(|| {
            [Family::Ip, Family::Ip6]
                .iter()
                .try_for_each(|family| command::delete_table(family.name(), table))
        })?
    }

    /// What stands there. A table that is broken or another version's counts as empty, and is written anew.
    pub fn read(&mut self) -> Result<HashMap<Entry, Value>> {
        let mut found = HashMap::new();
        for index in 0..self.tables.len() {
            let family = self.tables[index].0;
            self.tables[index].1 = self.table(family)?;
            if !self.tables[index].1.there {
                continue;
            }
            for (_, set, _) in nft::SETS {
                for element in self.nft.elements(SetName { family, table: &self.settings.table, set })? {
                    match nft::read(family, set, &element) {
                        Some((entry, value)) => drop(found.insert(entry, value)),
                        // Nobody but us writes here: start over.
                        None => self.tables[index].1.stale = true,
                    }
                }
            }
            if self.tables[index].1.stale {
                self.tables[index].1.there = false;
                found.retain(|entry, _| nft::family_of(entry) != family);
            }
        }
        Ok(found)
    }

    fn table(&mut self, family: Family) -> Result<Table> {
        let (text, comment) = nft::skeleton(family, &self.settings);
        let table = &self.settings.table;
        match self.nft.table_comment(family, table)? {
            None => return Ok(Table::default()),
            Some(found) if found != comment => return Ok(Table { stale: true, ..Table::default() }),
            Some(_) => {}
        }
        let chains = self.nft.chains(family, table)?;
        let numbers = |prefix: &str| -> BTreeSet<u32> {
            chains.iter().filter_map(|chain| chain.strip_prefix(prefix)?.parse().ok()).collect()
        };
        let (counts, seconds) = (numbers("lb-"), numbers("remember-"));
        let counts = counts.last().map_or(0, |last| u16::try_from(*last).unwrap_or(u16::MAX));
        // Chains and rules are never changed one by one, so their number tells whether somebody else did.
        let rules = rules_in(&text) + nft::RULES_PER_COUNT * usize::from(counts) + seconds.len();
        let whole = self.nft.rules(family, table)? == rules;
        Ok(Table { there: whole, stale: !whole, counts, seconds })
    }

    /// Makes changes, all of them or none.
    ///
    /// # Errors
    /// The kernel's refusal: what stands there is not what was read, so read it again.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let (mut script, mut batch) = (String::new(), Batch::default());
        for (family, table) in &mut self.tables {
            let changes: Vec<&Change> =
                changes.iter().filter(|change| nft::family_of(&change.entry) == *family).collect();
            if table.stale || !changes.is_empty() {
                script.push_str(&prepare(*family, table, &changes, &self.settings, &mut batch));
            }
        }
        if !script.is_empty() {
            self.ns.run(|| command::load(&script))??;
        }
        elements(&mut batch, &self.settings.table, changes);
        self.nft.commit(&batch)
    }

    /// The number of the rule set's state: another one tells that somebody changed something somewhere.
    pub fn generation(&mut self) -> Result<u32> {
        self.nft.generation()
    }

    /// Forgets the endpoints of clients that `valid` says no to.
    pub fn forget_affinity(&mut self, valid: impl Fn(Frontend, Endpoint) -> bool) -> Result<usize> {
        let mut count = 0;
        for (family, _) in self.tables.iter().filter(|(_, table)| table.there) {
            let set = SetName { family: *family, table: &self.settings.table, set: nft::AFFINITY };
            let mut elements = self.nft.elements(set)?;
            elements.retain(|element| {
                nft::read_affinity(*family, element).is_some_and(|(of, endpoint)| !valid(of, endpoint))
            });
            count += elements.len();
            for element in elements {
                // One at a time: each may have timed out by now, which is as good.
                let mut batch = Batch::default();
                batch.delete(set, &[element]);
                match self.nft.commit(&batch) {
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
            }
        }
        Ok(count)
    }
}

/// How many rules a table's text has: what ends with a semicolon and is no type, hook or property.
fn rules_in(text: &str) -> usize {
    let statements = text.split([';', '{', '\n']).map(str::trim);
    let ended = text.matches(';').count();
    let properties = ["type ", "typeof ", "flags ", "size ", "timeout "];
    ended - statements.filter(|s| properties.iter().any(|property| s.starts_with(property))).count()
}

/// What must be there before elements are changed: a table that is missing or broken, as text; chains for more endpoints
/// and for times to remember, in the batch.
fn prepare(
    family: Family,
    table: &mut Table,
    changes: &[&Change],
    settings: &Settings,
    batch: &mut Batch,
) -> String {
    let (name, table_name) = (family.name(), &settings.table);
    let mut text = String::new();
    if table.stale {
        text.push_str(&format!("add table {name} {table_name}\ndelete table {name} {table_name}\n"));
    }
    if !table.there {
        let (skeleton, comment) = nft::skeleton(family, settings);
        text.push_str(&format!("table {name} {table_name} {{\n  comment \"{comment}\"\n{skeleton}}}\n"));
        *table = Table { there: true, ..Table::default() };
    }
    let mut most = 1;
    for value in changes.iter().filter_map(|change| change.new) {
        match value {
            Value::Count(count) => most = most.max(count),
            Value::Seconds(seconds) if table.seconds.insert(seconds) => {
                nft::add_remember(batch, family, table_name, seconds);
            }
            _ => {}
        }
    }
    let most = most.checked_next_multiple_of(nft::COUNT_STEP).unwrap_or(most);
    for count in table.counts + 1..=most {
        nft::add_count(batch, family, table_name, count);
    }
    table.counts = table.counts.max(most);
    text
}

/// The changes of elements, by set: what goes or becomes another is deleted, what comes or is another is added.
fn elements(batch: &mut Batch, table: &str, changes: &[Change]) {
    let mut sets: BTreeMap<(Family, &str), [Vec<Element>; 2]> = BTreeMap::new();
    for change in changes {
        let key = (nft::family_of(&change.entry), nft::set_of(&change.entry));
        let [deleted, added] = sets.entry(key).or_default();
        deleted.extend(change.old.map(|old| nft::element(&change.entry, &old)));
        added.extend(change.new.map(|new| nft::element(&change.entry, &new)));
    }
    for ((family, set), [deleted, added]) in &sets {
        let name = SetName { family: *family, table, set };
        batch.delete(name, deleted);
        batch.add(name, added);
    }
}

/// Whether a change takes an endpoint from clients that may have kept it.
pub fn takes_endpoint(book: &Book, change: &Change) -> bool {
    match (&change.entry, change.old) {
        (Entry::Slot(of, ..), Some(_)) => book.get(&Entry::Sticky(*of)).is_some(),
        (Entry::Sticky(_), Some(_)) => true,
        _ => false,
    }
}

/// Whether connections over UDP may be stale after a change: an endpoint went, or there are some where none were.
pub fn stales_flows(change: &Change) -> bool {
    let udp = |of: &Frontend| of.protocol == crate::objects::Protocol::Udp;
    match (&change.entry, change.old) {
        (Entry::Slot(of, ..), Some(_)) => udp(of),
        (Entry::Count(of, List::Own | List::Everywhere), None) => udp(of),
        _ => false,
    }
}
