//! Prints the annotated sample file: `cargo run -p config --example sample > config/streambus.toml`.

fn main() {
    print!("{}", config::sample());
}
