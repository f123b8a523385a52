//! Documents that say what the program does keep up with it.

use std::fs;
use std::path::Path;

use git_partition_sync_producer::config::{Fallback, reference};

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for setting in reference().iter().flat_map(|section| section.settings) {
        let variable = format!("`{}`", setting.variable);
        let row = readme.lines().find(|line| line.starts_with("| `") && line.contains(&variable));
        let row = row.unwrap_or_else(|| panic!("no row of the settings table begins with {variable}"));
        if let Fallback::Required | Fallback::Value(_) | Fallback::Found(_) = setting.default {
            let default = setting.default.to_string();
            assert!(row.to_lowercase().contains(&default.to_lowercase()), "the default {default} is not in: {row}");
        }
        for other in setting.also {
            assert!(readme.contains(other), "{other}, which is read where {variable} is unset, is not mentioned");
        }
    }
}
