//! Changes that a batch makes something else of: one row again and again, rows that go and come, keys and unique values
//! that are handed on, keys that are equal and written in another way. Each is right statement by statement; put
//! together in the wrong way it gives other rows, or collides on the way there. Pure.

use rand::RngExt;
use rand::rngs::StdRng;

use super::changes::Change;
use super::history::Kind;
use super::tables::{AlwaysOrDefault, Table, Values};

/// Unique values that go from row to row: few, so that transactions hand them on to one another.
const HANDED_ON: i64 = 4;

impl Table {
    /// One of them.
    pub(super) fn attack(&mut self, random: &mut StdRng, tables: &[Self]) -> Change {
        match random.random_range(0..10) {
            0..2 => self.again_and_again(random),
            2..5 => self.recycle(random, tables),
            5..7 => self.hand_on(random),
            7..9 => self.swap_keys(random),
            _ => self.update_key_image(random),
        }
    }

    /// A row that is changed many times, now in this column and now in another.
    fn again_and_again(&self, random: &mut StdRng) -> Change {
        let hot = self.hot_row();
        let mut change = Vec::new();
        for _ in 0..random.random_range(2..9) {
            if random.random_bool(0.6) {
                change.extend(self.update_hot());
            } else {
                change.push((Kind::UpdateHot, self.update_of(random, hot)));
            }
        }
        change
    }

    /// A row that is deleted and inserted again, changed in between or not, and gone in the end or not.
    fn recycle(&mut self, random: &mut StdRng, tables: &[Self]) -> Change {
        let n = if random.random_bool(0.5) { self.hot_row() } else { self.likely_row(random) };
        let delete = format!("DELETE FROM {} WHERE {}", self.name, self.condition(n, ""));
        let mut change = Vec::new();
        if random.random_bool(0.3) {
            change.push((Kind::Recycle, self.update_of(random, n)));
        }
        for _ in 0..random.random_range(1..4) {
            change.push((Kind::Recycle, delete.clone()));
            change.push((Kind::Recycle, self.insert_of(random, tables, n, "")));
            if random.random_bool(0.4) {
                change.push((Kind::Recycle, self.update_of(random, n)));
            }
        }
        if random.random_bool(0.3) {
            change.push((Kind::Recycle, delete));
        } else {
            self.likely.push(n);
        }
        change
    }

    /// A unique value that goes from row to row: whoever has it gives it up before the next takes it.
    fn hand_on(&self, random: &mut StdRng) -> Change {
        let Some((column, how)) = &self.unique else { return self.again_and_again(random) };
        let value = how.literal(random.random_range(0..HANDED_ON));
        let mut change = Vec::new();
        for _ in 0..random.random_range(1..4) {
            let n = self.likely_row(random);
            let set = |value: &str, which: &str| {
                (Kind::HandOn, format!("UPDATE {} SET {column} = {value} WHERE {which}", self.name))
            };
            change.push(set("NULL", &format!("{column} = {value}")));
            change.push(set(&value, &self.condition(n, "")));
        }
        change
    }

    /// Two rows that exchange their keys over a third one; long values stay where they are.
    fn swap_keys(&mut self, random: &mut StdRng) -> Change {
        if self.key_made == Some(AlwaysOrDefault::Always) {
            return self.again_and_again(random);
        }
        let one = self.likely_row(random);
        let other = self.other_row(random, one);
        self.next += 1;
        let away = self.next;
        let mut change = Vec::new();
        for (from, to) in [(one, away), (other, one), (away, other)] {
            let pairs = self.keys.iter().zip(self.key_literals(to));
            let set: Vec<_> = pairs.map(|(key, literal)| format!("{} = {literal}", key.name)).collect();
            let condition = self.condition(from, "");
            let sql = format!("UPDATE {} SET {} WHERE {condition}", self.name, set.join(", "));
            change.push((Kind::SwapKeys, sql));
            if random.random_bool(0.3) {
                change.push((Kind::Update, self.update_of(random, to)));
            }
        }
        change
    }

    /// A key that becomes an equal one with more or fewer digits.
    fn update_key_image(&self, random: &mut StdRng) -> Change {
        let Some(key) = self.keys.iter().find(|key| key.values == Values::Numeric) else {
            return self.again_and_again(random);
        };
        let n = self.likely_row(random);
        let (name, condition) = (&key.name, self.condition(n, ""));
        let value = if random.random_bool(0.6) { "+ 0.0000" } else { "* 1" };
        let sql = format!("UPDATE {} SET {name} = trim_scale({name}) {value} WHERE {condition}", self.name);
        vec![(Kind::UpdateKeyImage, sql)]
    }

    fn update_of(&self, random: &mut StdRng, n: i64) -> String {
        format!("UPDATE {} SET {} WHERE {}", self.name, self.assignments(random), self.condition(n, ""))
    }
}
