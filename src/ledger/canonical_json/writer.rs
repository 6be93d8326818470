//! From the list of nodes to text: sorts the keys, drops repeated ones, and prints doubles.

use super::nodes::{Node, Parsed};
use super::numbers::write_double;
use super::strings::{code_points, inside_quotes, write_token};
use super::Style;
use crate::ledger::pauses::Pauses;
use std::cmp::Ordering;

/// What is still to be written of the containers that are open.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Members of the open objects, sorted; the innermost object's are last.
    members: Vec<Member>,
    frames: Vec<Frame>,
}

/// Indexes of a key's node and of its value's.
#[derive(Debug, Clone, Copy)]
struct Member {
    key: u32,
    value: u32,
}

#[derive(Debug)]
enum Frame {
    /// Nodes from `next` up to `end`.
    Array { next: u32, end: u32 },
    /// Members from `next` on; those before it, down to `first`, are written.
    Object { first: usize, next: usize },
}

/// Appends the value in `parsed`, whose nodes refer to `text`.
pub(super) fn write(
    text: &str,
    parsed: &Parsed,
    style: Style,
    pending: &mut Pending,
    out: &mut Vec<u8>,
    pauses: &mut Pauses<'_>,
) {
    pending.members.clear();
    pending.frames.clear();
    pending.members.reserve(16);
    pending.frames.reserve(8);
    let (comma, colon) = match style {
        Style::Canonical => (&b", "[..], &b": "[..]),
        Style::Compact => (&b","[..], &b":"[..]),
    };
    let mut writer = Writer { text, nodes: &parsed.nodes, comma, colon, pending, out, pauses };
    writer.begin(0);
    while let Some(value) = writer.next_value() {
        writer.begin(value);
    }
}

struct Writer<'a, 'p> {
    text: &'a str,
    nodes: &'a [Node],
    comma: &'static [u8],
    colon: &'static [u8],
    pending: &'a mut Pending,
    out: &'a mut Vec<u8>,
    pauses: &'a mut Pauses<'p>,
}

impl Writer<'_, '_> {
    /// Writes a scalar, or opens a container.
    fn begin(&mut self, index: u32) {
        self.pauses.step();
        match self.nodes[index as usize] {
            Node::Verbatim { start, end } => {
                let text = &self.text.as_bytes()[start as usize..end as usize];
                self.out.extend_from_slice(text);
            }
            Node::Escaped { start, end } => {
                write_token(self.out, &self.text[start as usize..end as usize]);
            }
            Node::Float(value) => write_double(self.out, value),
            Node::Array { end } => {
                self.out.push(b'[');
                let next = index + 1;
                self.pending.frames.push(Frame::Array { next, end });
            }
            Node::Object { end } => {
                self.out.push(b'{');
                let first = self.pending.members.len();
                self.collect_members(index, end);
                let next = first;
                self.pending.frames.push(Frame::Object { first, next });
            }
        }
    }

    /// Writes what stands before the next value, closing what is finished; `None` when all is.
    fn next_value(&mut self) -> Option<u32> {
        loop {
            let opened = matches!(self.out.last(), Some(b'{' | b'['));
            match self.pending.frames.last_mut()? {
                Frame::Array { next, end } if *next < *end => {
                    let value = *next;
                    *next = after(self.nodes, value);
                    self.separate(opened);
                    return Some(value);
                }
                Frame::Object { next, .. } if *next < self.pending.members.len() => {
                    let member = self.pending.members[*next];
                    *next += 1;
                    self.separate(opened);
                    self.begin(member.key);
                    self.out.extend_from_slice(self.colon);
                    return Some(member.value);
                }
                Frame::Array { .. } => self.out.push(b']'),
                Frame::Object { first, .. } => {
                    self.out.push(b'}');
                    self.pending.members.truncate(*first);
                }
            }
            self.pending.frames.pop();
        }
    }

    fn separate(&mut self, opened: bool) {
        if !opened {
            self.out.extend_from_slice(self.comma);
        }
    }

    /// Pushes the members of the object at `index`, in key order, only the last of equal keys.
    fn collect_members(&mut self, index: u32, end: u32) {
        let first = self.pending.members.len();
        let mut key = index + 1;
        let mut ascending = true;
        while key < end {
            self.pauses.step();
            let value = key + 1;
            if let Some(previous) = self.pending.members[first..].last() {
                ascending &= self.compare_keys(previous.key, key).is_lt();
            }
            self.pending.members.push(Member { key, value });
            key = after(self.nodes, value);
        }
        if !ascending {
            self.sort_members(first);
        }
    }

    fn sort_members(&mut self, first: usize) {
        let mut members = std::mem::take(&mut self.pending.members);
        // Stable, so that of equal keys the last in the text comes last.
        members[first..].sort_by(|a, b| self.compare_keys(a.key, b.key));
        let mut kept = first;
        for at in first..members.len() {
            let repeated = members.get(at + 1).is_some_and(|next| self.compare_keys(members[at].key, next.key).is_eq());
            if !repeated {
                members[kept] = members[at];
                kept += 1;
            }
        }
        members.truncate(kept);
        self.pending.members = members;
    }

    /// By code point. For strings without escapes that is the order of their bytes.
    fn compare_keys(&self, a: u32, b: u32) -> Ordering {
        let (a, a_verbatim) = self.key(a);
        let (b, b_verbatim) = self.key(b);
        if a_verbatim && b_verbatim {
            return inside_quotes(a).cmp(inside_quotes(b));
        }
        code_points(a).cmp(code_points(b))
    }

    fn key(&self, index: u32) -> (&str, bool) {
        match self.nodes[index as usize] {
            Node::Verbatim { start, end } => (&self.text[start as usize..end as usize], true),
            Node::Escaped { start, end } => (&self.text[start as usize..end as usize], false),
            // The parser puts a string at every key.
            _ => ("\"\"", true),
        }
    }
}

/// The index of the node after the value at `index`.
fn after(nodes: &[Node], index: u32) -> u32 {
    match nodes[index as usize] {
        Node::Array { end } | Node::Object { end } => end,
        _ => index + 1,
    }
}
