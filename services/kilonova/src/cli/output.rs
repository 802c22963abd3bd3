//! Printing: borderless tables for people, JSON for programs.

use std::io::{IsTerminal, Write};
use std::time::SystemTime;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;
use super::format::safe;
use super::json::{Json, Named};
use super::options::{Format, GlobalOptions};

/// A resource that can stand in a list.
pub trait Row: Named {
    /// The key of one in JSON.
    const ONE: &'static str;
    /// The key of many in JSON.
    const MANY: &'static str;
    /// The heads of the columns.
    const COLUMNS: &'static [&'static str];
    /// The cells, in the order of the columns.
    fn row(&self, now: SystemTime) -> Vec<String>;
}

/// How text may look where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether colours are shown there.
    pub color: bool,
    /// How many columns a line has there, when it is a terminal.
    pub width: Option<usize>,
}

impl Style {
    /// For files and pipes.
    #[cfg(test)]
    pub const PLAIN: Self = Self { color: false, width: None };

    /// For wherever stdout goes.
    #[must_use]
    pub fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { color: terminal && wanted, width: Table::new().width().map(usize::from) }
    }
}

/// Where answers go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    style: Style,
}

impl Output {
    /// Stdout, as the user wants it.
    #[must_use]
    pub fn new(options: &GlobalOptions) -> Self {
        Self { format: options.output, style: Style::of_stdout() }
    }

    /// Whether the user wants JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// How text may look.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style
    }

    /// Prints a list.
    pub fn list<R: Row>(&self, items: &[R]) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(&keyed(R::MANY, items.iter().map(Json).collect::<Vec<_>>())),
            Format::Table => {
                let now = SystemTime::now();
                let rows = items.iter().map(|item| item.row(now)).collect();
                self.text(&table(R::COLUMNS, rows, self.style))
            }
        }
    }

    /// Prints what was created, or what would have been.
    pub fn created<R: Row>(&self, items: &[R], validate_only: bool) -> Result<(), Failure> {
        if validate_only && !self.is_json() {
            self.text("The request is valid. Nothing was created; this is what would be:")?;
        }
        self.list(items)
    }

    /// Prints what was deleted.
    pub fn deleted<R: Row>(&self, items: &[R]) -> Result<(), Failure> {
        if items.is_empty() && !self.is_json() {
            return self.text("Nothing was there to delete.");
        }
        self.list(items)
    }

    /// Prints one resource: as JSON, or with the text made by `text`.
    pub fn one<R: Row>(&self, item: &R, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(&keyed(R::ONE, Json(item))),
            Format::Table => self.text(&text()),
        }
    }

    /// Prints a value as indented JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&serde_json::to_string_pretty(value).expect("messages and maps with text keys"))
    }

    /// Prints text and ends its last line.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let written = match text.ends_with('\n') {
            true => write!(stdout, "{text}"),
            false => writeln!(stdout, "{text}"),
        };
        written.and_then(|()| stdout.flush()).map_err(|_| Failure::OutputClosed)
    }
}

/// An object with one key.
fn keyed<T: Serialize>(key: &'static str, value: T) -> std::collections::BTreeMap<&'static str, T> {
    std::collections::BTreeMap::from([(key, value)])
}

/// A table without borders; every line trimmed, every row one line.
#[must_use]
pub fn table(columns: &[&str], rows: Vec<Vec<String>>, style: Style) -> String {
    let mut table = bare(style);
    table.set_header(columns.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(|(index, text)| {
            let tone = columns.get(index).and_then(|column| tone(column, &text));
            let cell = Cell::new(safe(&text));
            match tone {
                Some(color) => cell.fg(color),
                None => cell,
            }
        }));
    }
    finish(table)
}

/// Names and values, one pair to a line.
#[must_use]
pub fn details(pairs: Vec<(&str, String)>, style: Style) -> String {
    let mut table = bare(style);
    for (name, value) in pairs {
        let tone = tone(&name.to_uppercase(), &value);
        let value = Cell::new(safe(&value));
        table.add_row([Cell::new(name), tone.map_or(value.clone(), |color| value.fg(color))]);
    }
    finish(table)
}

fn bare(style: Style) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if style.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The colour of a state.
fn tone(column: &str, text: &str) -> Option<Color> {
    if !matches!(column, "STATE" | "ADMIN" | "OUTCOME") {
        return None;
    }
    match text.split([' ', ':']).next() {
        Some("ACTIVE" | "AVAILABLE" | "IN_USE" | "UP" | "SUCCEEDED" | "SERVING") => Some(Color::Green),
        Some("ERROR" | "DOWN" | "FAILED") => Some(Color::Red),
        Some("BUILDING" | "CREATING" | "DELETING" | "IN_PROGRESS" | "DISABLED" | "DRAINING") => {
            Some(Color::Yellow)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Vec<String>> {
        vec![vec!["web-1".into(), "ACTIVE".into()], vec!["a-longer-name".into(), "ERROR".into()]]
    }

    #[test]
    fn tables_have_columns_and_nothing_else() {
        let text = table(&["NAME", "STATE"], sample(), Style::PLAIN);
        assert_eq!(text, "NAME            STATE\nweb-1           ACTIVE\na-longer-name   ERROR\n");
    }

    #[test]
    fn an_empty_list_still_shows_its_columns() {
        assert_eq!(table(&["NAME", "STATE"], Vec::new(), Style::PLAIN), "NAME   STATE\n");
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(!table(&["NAME", "STATE"], sample(), Style::PLAIN).contains('\u{1b}'));
        let coloured = table(&["NAME", "STATE"], sample(), Style { color: true, width: Some(80) });
        assert!(coloured.contains('\u{1b}'));
    }

    #[test]
    fn a_value_stays_in_its_line() {
        let text = details(vec![("id", "i-1".into()), ("project", "a\nb".into())], Style::PLAIN);
        assert_eq!(text, "id        i-1\nproject   a\\nb\n");
        let text = table(&["NAME", "STATE"], vec![vec!["\u{1b}[31m".into(), "UP".into()]], Style::PLAIN);
        assert_eq!(text, "NAME         STATE\n\\u{1b}[31m   UP\n");
    }
}
