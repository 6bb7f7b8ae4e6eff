//! Sections and variables that no section of the program has.
//!
//! A program that reads its own configuration takes a name that is nearly known for a misspelt one,
//! which is a fault. A program that reads the configuration of another one cannot do that: the other
//! program may have a section of that name. It leaves the name unread and reports the similarity.

use super::{
    Fault, FaultKind, Origin,
    check::{nearest, unknown},
    schema::Schema,
    sources::{Content, Node},
};

/// Names that were left unread.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread {
    /// Whether names that are nearly known are left unread too, instead of being faults.
    pub(super) has_other_sections: bool,
    /// Variables with our prefix that set nothing, in the order of their names.
    pub(super) variables: Vec<String>,
    /// Sections of files, in the order of their names.
    pub(super) sections: Vec<String>,
    /// The sections and variables among them that may be misspelt, in the order of their origins.
    pub(super) similar: Vec<Fault>,
}

impl Unread {
    /// Removes the sections of a file that are not known, if that is allowed. Values of code stay:
    /// they are those of this program.
    pub(super) fn take_sections(&mut self, layer: &mut Node, schema: &Schema) {
        let is_file = matches!(layer.origin, Origin::File { .. });
        let Content::Mapping(sections) = &mut layer.content else { return };
        if !is_file || !self.has_other_sections {
            return;
        }
        let shape = schema.shape();
        sections.retain(|name, section| {
            let is_known = shape.child(name).is_some();
            if !is_known {
                self.sections.push(name.clone());
                if nearest(name, shape.names()).is_some() {
                    self.similar.push(unknown(section, &shape, std::slice::from_ref(name)));
                }
            }
            is_known
        });
    }

    /// Leaves a variable unread.
    pub(super) fn take_variable(&mut self, name: &str) {
        self.variables.push(name.to_owned());
    }

    /// Leaves a variable unread that may be misspelt, if that is allowed. Returns the fault otherwise.
    pub(super) fn take_misspelt(&mut self, name: &str, kind: FaultKind) -> Result<(), Fault> {
        let fault = Fault::new(Origin::variable(name), "", kind);
        if !self.has_other_sections {
            return Err(fault);
        }
        self.take_variable(name);
        self.similar.push(fault);
        Ok(())
    }

    /// Sorts what was found. Several files may have the same section.
    pub(super) fn sorted(mut self) -> Self {
        self.sections.sort_unstable();
        self.sections.dedup();
        self.similar.sort_by(|one, other| one.origin.cmp(&other.origin));
        self
    }
}
