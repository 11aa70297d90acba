//! The flags of `serve`: one for each setting, made from the table of settings, so that none can be missing or stale.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use config::{Kind, PROPERTIES, Property};

/// The settings that were given as flags: dotted name and value.
#[derive(Clone, Debug)]
pub(crate) struct SettingFlags(pub(crate) Vec<(&'static str, String)>);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(PROPERTIES.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |property: &'static Property| {
            let value: &String = matches.get_one(property.name)?;
            Some((property.name, value.clone()))
        };
        Ok(Self(PROPERTIES.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(property: &Property) -> Arg {
    let Property { name, kind, default, help, .. } = property;
    let flag = property.flag().trim_start_matches('-').to_owned();
    let arg = Arg::new(*name).long(flag).help(format!("{help} [default: {default}] [env: {}]", property.variable()));
    match kind {
        // The flag alone says yes.
        Kind::Flag => arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("true|false"),
        _ => arg.value_name(name.rsplit('.').next().unwrap_or(name).to_uppercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(flags: &[&str]) -> Vec<(&'static str, String)> {
        let command = SettingFlags::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from([&["serve"], flags].concat()).unwrap();
        SettingFlags::from_arg_matches(&matches).unwrap().0
    }

    #[test]
    fn every_setting_is_a_flag() {
        for property in PROPERTIES {
            assert_eq!(given(&[&format!("{}=x", property.flag())]), [(property.name, "x".to_owned())]);
        }
        assert!(given(&[]).is_empty(), "a default is not a flag that was given");
    }

    #[test]
    fn a_switch_needs_no_value() {
        assert_eq!(given(&["--insecure", "--cores", "0"]).len(), 2);
        assert_eq!(given(&["--insecure"]), [("insecure", "true".to_owned())]);
        assert_eq!(given(&["--insecure=false"]), [("insecure", "false".to_owned())]);
    }
}
