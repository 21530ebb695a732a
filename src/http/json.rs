//! The little JSON that the layer needs: one form for all orders of members, and quoted text.
//!
//! Strings and numbers are kept as they are written: a parser that turned them into values would
//! take two numbers beyond its precision for one, and so two requests for one.

use std::fmt::Write as _;

/// Deeper nesting is compared by its bytes.
const DEPTH_MAX: usize = 128;

/// The text without space and with the members of each object in order; `None` where it is not
/// JSON, or names a member twice.
pub(crate) fn canonical(text: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { rest: text };
    let mut written = Vec::with_capacity(text.len());
    reader.value(&mut written, 0)?;
    reader.skip_space();
    reader.rest.is_empty().then_some(written)
}

/// Text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if u32::from(control) < 0x20 => {
                write!(quoted, "\\u{:04x}", u32::from(control)).expect("a String takes any text");
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, to: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.skip_space();
        match self.rest.first()? {
            b'{' if depth < DEPTH_MAX => self.object(to, depth),
            b'[' if depth < DEPTH_MAX => self.array(to, depth),
            b'"' => {
                to.extend_from_slice(self.string()?);
                Some(())
            }
            _ => {
                to.extend_from_slice(self.word()?);
                Some(())
            }
        }
    }

    fn object(&mut self, to: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.expect(b'{')?;
        let mut members: Vec<(&[u8], Vec<u8>)> = Vec::new();
        if !self.takes(b'}') {
            loop {
                self.skip_space();
                let name = self.string()?;
                self.expect(b':')?;
                let mut value = Vec::new();
                self.value(&mut value, depth + 1)?;
                members.push((name, value));
                if self.takes(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        members.sort_by_key(|(name, _)| *name);
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        to.push(b'{');
        for (name, value) in members {
            to.extend_from_slice(name);
            to.push(b':');
            to.extend_from_slice(&value);
            to.push(b',');
        }
        to.push(b'}');
        Some(())
    }

    fn array(&mut self, to: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        to.push(b'[');
        if !self.takes(b']') {
            loop {
                self.value(to, depth + 1)?;
                to.push(b',');
                if self.takes(b']') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        to.push(b']');
        Some(())
    }

    /// A string with its quotes, as it is written.
    fn string(&mut self) -> Option<&'a [u8]> {
        if self.rest.first() != Some(&b'"') {
            return None;
        }
        let mut end = 1;
        loop {
            match self.rest.get(end)? {
                b'"' => return Some(self.take(end + 1)),
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
    }

    /// A number, `true`, `false` or `null`, as it is written.
    fn word(&mut self) -> Option<&'a [u8]> {
        let is_in = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let len = self.rest.iter().take_while(|byte| is_in(byte)).count();
        (len > 0).then(|| self.take(len))
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.rest.first() == Some(&byte);
        if is_next {
            self.take(1);
        }
        is_next
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.takes(byte).then_some(())
    }

    fn skip_space(&mut self) {
        let space = |byte: &u8| b" \t\r\n".contains(byte);
        let len = self.rest.iter().take_while(|byte| space(byte)).count();
        self.take(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_space_do_not_count_but_values_do() {
        let one = canonical(br#"{"a": [1, {"c":2,"b":"x y"}], "b": null}"#);
        assert!(one.is_some());
        assert_eq!(one, canonical(b"{\"b\":null,\n\"a\":[1,{\"b\":\"x y\",\"c\":2}]}"));
        assert_ne!(one, canonical(br#"{"b":null,"a":[1,{"b":"xy","c":2}]}"#));
        assert_ne!(canonical(b"[1,23]"), canonical(b"[12,3]"));
        let (big, bigger) = (b"12345678901234567890123", b"12345678901234567890124");
        assert_ne!(canonical(big), canonical(bigger));
    }

    #[test]
    fn what_is_not_json_or_names_a_member_twice_has_no_canonical_form() {
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        for bad in ["", "{", "[1 2]", "{\"a\":1,\"a\":2}", "\"open", "\"open\\", "1 1", &deep] {
            assert_eq!(canonical(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn quoted_text_keeps_to_the_grammar_of_json() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }
}
