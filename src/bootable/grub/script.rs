//! GRUB's script as commands: words with their quotes taken off and their variables put in (GRUB manual, "Writing full
//! configuration files directly"; grub-core/script/yylex.l and execute.c).

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// What stands in a word for the value of a variable that cannot be known before GRUB runs. The text of a script has no
/// such character, nor any other control character.
pub(super) const UNKNOWN: char = '\0';

/// Bytes that all variables of a script put into words: a few lines can double a value a thousand times over. From there
/// on no variable is known.
const MAX_EXPANDED: usize = 1 << 20;
/// Variables that are known at a time; further ones are not.
const MAX_VARIABLES: usize = 256;
/// Words of one command; further ones are passed over.
const MAX_WORDS: usize = 512;

/// The variables that have a known value.
#[derive(Debug, Default)]
pub(super) struct Variables {
    known: HashMap<String, String>,
    expanded: usize,
}

impl Variables {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if self.known.len() < MAX_VARIABLES || self.known.contains_key(name) {
            self.known.insert(name.to_owned(), value.to_owned());
        }
    }

    /// From here on nobody can know what it is.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }

    fn value(&mut self, name: &str) -> String {
        let known = self.known.get(name).filter(|value| self.expanded + value.len() <= MAX_EXPANDED);
        let value = known.cloned().unwrap_or_else(|| UNKNOWN.to_string());
        self.expanded += value.len();
        value
    }
}

/// A command, up to what ends it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub words: Vec<String>,
    pub end: End,
}

/// What a command ends with.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A line's end, `;` and their like.
    #[default]
    Line,
    /// `{`: the command is the head of a block.
    Open,
    /// `}`.
    Close,
}

/// The commands of a script, each read when it is asked for, since those before it set variables.
pub(super) struct Script<'a> {
    chars: Peekable<Chars<'a>>,
}

/// A word in the making. Quotes make a word even where nothing is between them.
#[derive(Default)]
struct Draft {
    text: String,
    is_quoted: bool,
}

impl<'a> Script<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { chars: text.chars().peekable() }
    }

    /// The next command; it may have no words. `None` at the end.
    pub(super) fn command(&mut self, variables: &mut Variables) -> Option<Command> {
        self.chars.peek()?;
        let (mut words, mut word) = (Vec::new(), Draft::default());
        let end = loop {
            let Some(c) = self.chars.next() else { break End::Line };
            match c {
                '\n' | ';' | '|' | '&' => break End::Line,
                '{' => break End::Open,
                '}' => break End::Close,
                '#' if word.is_nothing() => while self.chars.next_if(|&c| c != '\n').is_some() {},
                c if is_blank(c) => word.finish(&mut words),
                '\\' => self.escaped(&mut word),
                '\'' => self.single_quoted(&mut word),
                '"' => self.double_quoted(&mut word, variables),
                '$' => self.variable(&mut word, &mut words, variables),
                c => word.text.push(c),
            }
        };
        word.finish(&mut words);
        Some(Command { words, end })
    }

    /// `\` takes the meaning of what follows, and a line's end away.
    fn escaped(&mut self, word: &mut Draft) {
        if let Some(c) = self.chars.next().filter(|&c| c != '\n') {
            word.text.push(c);
        }
    }

    fn single_quoted(&mut self, word: &mut Draft) {
        word.is_quoted = true;
        word.text.extend(self.chars.by_ref().take_while(|&c| c != '\''));
    }

    fn double_quoted(&mut self, word: &mut Draft, variables: &mut Variables) {
        word.is_quoted = true;
        while let Some(c) = self.chars.next().filter(|&c| c != '"') {
            match (c, self.chars.peek()) {
                ('\\', Some('$' | '"' | '\\' | '\n')) => self.escaped(word),
                ('$', _) => match self.name() {
                    Some(name) => word.text += &variables.value(&name),
                    None => word.text.push('$'),
                },
                _ => word.text.push(c),
            }
        }
    }

    /// Outside of quotes, blanks in a value part words.
    fn variable(&mut self, word: &mut Draft, words: &mut Vec<String>, variables: &mut Variables) {
        match self.name() {
            // `$"text"` is a text to be translated.
            None if self.chars.peek() == Some(&'"') => {}
            None => word.text.push('$'),
            Some(name) => {
                for c in variables.value(&name).chars() {
                    if is_blank(c) || c == '\n' { word.finish(words) } else { word.text.push(c) }
                }
            }
        }
    }

    /// The name behind a `$`; `None` when there is none. `$1`, `$?` and their like have names that nobody can set.
    fn name(&mut self) -> Option<String> {
        if self.chars.next_if_eq(&'{').is_some() {
            return Some(self.chars.by_ref().take_while(|&c| c != '}').collect());
        }
        if let Some(special) = self.chars.next_if(|c| "@#*?".contains(*c) || c.is_ascii_digit()) {
            return Some(special.to_string());
        }
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|&c| c.is_ascii_alphanumeric() || c == '_') {
            name.push(c);
        }
        (!name.is_empty()).then_some(name)
    }
}

impl Draft {
    fn is_nothing(&self) -> bool {
        self.text.is_empty() && !self.is_quoted
    }

    fn finish(&mut self, words: &mut Vec<String>) {
        let Self { text, is_quoted } = std::mem::take(self);
        if (is_quoted || !text.is_empty()) && words.len() < MAX_WORDS {
            words.push(text);
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of each command.
    fn commands(text: &str, variables: &mut Variables) -> Vec<Vec<String>> {
        let mut script = Script::new(text);
        std::iter::from_fn(|| script.command(variables)).map(|command| command.words).collect()
    }

    fn words(text: &str) -> Vec<String> {
        let mut variables = Variables::default();
        variables.set("a", "one two");
        variables.set("b", "x");
        commands(text, &mut variables).concat()
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(
            words(r#"menuentry 'a "b" {' "c 'd' \"e\" \\ \n" f\ g "" $"t" h''i"#),
            ["menuentry", "a \"b\" {", r#"c 'd' "e" \ \n"#, "f g", "", "t", "hi"]
        );
        assert_eq!(words("a \\\nb 'c\nd' e\\"), ["a", "b", "c\nd", "e"], "lines go on");
        assert_eq!(words("a # b 'c\nd#e"), ["a", "d#e"], "comments end with their line");
        assert_eq!(words("a 'b"), ["a", "b"], "a quote that nobody closes ends with the text");
    }

    #[test]
    fn variables_are_put_in_where_they_are_known() {
        assert_eq!(
            words(r#"$a "$a" '$a' x${b}y $b/z "${b}" \$b"#),
            ["one", "two", "one two", "$a", "xxy", "x/z", "x", "$b"]
        );
        assert_eq!(words("$c x${c}y \"$1\" ${"), ["\0", "x\0y", "\0", "\0"]);
        assert_eq!(words("$ a$ \"$\""), ["$", "a$", "$"]);
    }

    #[test]
    fn commands_end_at_lines_and_braces() {
        let mut script = Script::new("if x; then\nmenuentry 'm' {linux /a\n} a&&b");
        let variables = &mut Variables::default();
        let ends: Vec<_> = std::iter::from_fn(|| script.command(variables))
            .map(|command| (command.words.join(" "), command.end))
            .collect();
        let expected = [
            ("if x", End::Line),
            ("then", End::Line),
            ("menuentry m", End::Open),
            ("linux /a", End::Line),
            ("", End::Close),
            ("a", End::Line),
            ("", End::Line),
            ("b", End::Line),
        ];
        assert_eq!(ends, expected.map(|(words, end)| (words.to_owned(), end)));
    }

    #[test]
    fn a_value_that_doubles_itself_ends_as_unknown() {
        let mut variables = Variables::default();
        variables.set("a", "0123456789");
        for _ in 0..100 {
            let [word] = &commands("\"$a$a\"", &mut variables).concat()[..] else { panic!("one word") };
            variables.set("a", word);
        }
        assert!(variables.known["a"].len() <= MAX_EXPANDED && variables.expanded <= 2 * MAX_EXPANDED);
        assert_eq!(commands("$a", &mut variables).concat(), ["\0"]);
    }

    #[test]
    fn words_and_variables_have_limits() {
        assert_eq!(words(&"a ".repeat(10_000)).len(), MAX_WORDS);
        let mut variables = Variables::default();
        for number in 0..1000 {
            variables.set(&number.to_string(), "x");
        }
        assert_eq!(variables.known.len(), MAX_VARIABLES);
    }
}
