//! Lexer for GRUB's scripts: commands of words, without quotes and with variables expanded (GRUB
//! manual, "Quoting" and "Variable expansion"; grub-core/script/yylex.l and execute.c).

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// Character in place of the value of a variable that is known only when GRUB runs. The text of a
/// script has no control characters.
pub(super) const UNKNOWN: char = '\0';

/// Most bytes that expansions add to a script, since few lines can double a value many times. After
/// that all variables are unknown.
const MAX_EXPANDED: usize = 1 << 20;
/// Most known variables; further ones stay unknown.
const MAX_VARIABLES: usize = 256;
/// Most words of a command; further ones are dropped.
const MAX_WORDS: usize = 512;

/// The variables with a known value.
#[derive(Debug, Default)]
pub(super) struct ScriptVariables {
    known: HashMap<String, String>,
    expanded: usize,
}

impl ScriptVariables {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if self.known.len() < MAX_VARIABLES || self.known.contains_key(name) {
            self.known.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Makes a variable unknown.
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

/// A command and its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ScriptCommand {
    pub words: Vec<String>,
    pub end: CommandEnd,
}

/// CommandEnd of a command.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandEnd {
    /// The end of the line, `;`, `|` or `&`.
    #[default]
    Line,
    /// `{`: the command is the head of a block.
    Open,
    /// `}`.
    Close,
}

/// The commands of a script. Each is read on demand, since earlier ones set variables.
pub(super) struct Script<'a> {
    chars: Peekable<Chars<'a>>,
}

/// An unfinished word. Quotes make a word even if it is empty.
#[derive(Default)]
struct WordDraft {
    text: String,
    is_quoted: bool,
}

impl<'a> Script<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { chars: text.chars().peekable() }
    }

    /// Reads the next command, which may have no words. `None` at the end.
    pub(super) fn command(&mut self, variables: &mut ScriptVariables) -> Option<ScriptCommand> {
        self.chars.peek()?;
        let (mut words, mut word) = (Vec::new(), WordDraft::default());
        let end = loop {
            let Some(c) = self.chars.next() else { break CommandEnd::Line };
            match c {
                // Exit codes are unknown, so commands joined by `&&` and `||` all count.
                '\n' | ';' | '|' | '&' => break CommandEnd::Line,
                '{' => break CommandEnd::Open,
                '}' => break CommandEnd::Close,
                // yylex.l: a comment begins where a word could begin.
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
        Some(ScriptCommand { words, end })
    }

    /// Reads the character after `\` as it is; a line end is dropped.
    fn escaped(&mut self, word: &mut WordDraft) {
        if let Some(c) = self.chars.next().filter(|&c| c != '\n') {
            word.text.push(c);
        }
    }

    fn single_quoted(&mut self, word: &mut WordDraft) {
        word.is_quoted = true;
        word.text.extend(self.chars.by_ref().take_while(|&c| c != '\''));
    }

    fn double_quoted(&mut self, word: &mut WordDraft, variables: &mut ScriptVariables) {
        word.is_quoted = true;
        while let Some(c) = self.chars.next().filter(|&c| c != '"') {
            match (c, self.chars.peek()) {
                // yylex.l, DQUOTE: `\` before other characters stays.
                ('\\', Some('$' | '"' | '\\' | '\n')) => self.escaped(word),
                ('$', _) => match self.name() {
                    Some(name) => word.text += &variables.value(&name),
                    None => word.text.push('$'),
                },
                _ => word.text.push(c),
            }
        }
    }

    /// Expands a variable outside of quotes, where blanks in its value separate words.
    fn variable(&mut self, word: &mut WordDraft, words: &mut Vec<String>, variables: &mut ScriptVariables) {
        match self.name() {
            // yylex.l, I18NSTR: `$"text"` is a text to translate.
            None if self.chars.peek() == Some(&'"') => {}
            None => word.text.push('$'),
            Some(name) => {
                for c in variables.value(&name).chars() {
                    if is_blank(c) || c == '\n' { word.finish(words) } else { word.text.push(c) }
                }
            }
        }
    }

    /// Reads the name after a `$`; `None` if there is none. `$1`, `$?` and the like cannot be set
    /// and stay unknown.
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

impl WordDraft {
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
    fn commands(text: &str, variables: &mut ScriptVariables) -> Vec<Vec<String>> {
        let mut script = Script::new(text);
        std::iter::from_fn(|| script.command(variables)).map(|command| command.words).collect()
    }

    fn words(text: &str) -> Vec<String> {
        let mut variables = ScriptVariables::default();
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
    fn known_variables_are_expanded() {
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
        let variables = &mut ScriptVariables::default();
        let ends: Vec<_> = std::iter::from_fn(|| script.command(variables))
            .map(|command| (command.words.join(" "), command.end))
            .collect();
        let expected = [
            ("if x", CommandEnd::Line),
            ("then", CommandEnd::Line),
            ("menuentry m", CommandEnd::Open),
            ("linux /a", CommandEnd::Line),
            ("", CommandEnd::Close),
            ("a", CommandEnd::Line),
            ("", CommandEnd::Line),
            ("b", CommandEnd::Line),
        ];
        assert_eq!(ends, expected.map(|(words, end)| (words.to_owned(), end)));
    }

    #[test]
    fn doubling_value_becomes_unknown() {
        let mut variables = ScriptVariables::default();
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
        let mut variables = ScriptVariables::default();
        for number in 0..1000 {
            variables.set(&number.to_string(), "x");
        }
        assert_eq!(variables.known.len(), MAX_VARIABLES);
    }
}
