//! Prints the table of all settings in Markdown.

fn main() {
    print!("{}", config::reference());
}
