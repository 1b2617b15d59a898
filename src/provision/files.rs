//! Which machine gets which file.

use std::sync::Arc;

use tracing::field::display;
use tracing::warn;

use super::{Facts, Folder, FolderError};
use crate::boot::operator_path::OperatorPath;
use crate::boot::rules::Rule;
use crate::boot::{Requester, Rules};
use crate::machines::KnownMachine;
use crate::text::Word;

/// The operator's files and the rules about them.
#[derive(Debug, Clone)]
pub(crate) struct OperatorFiles {
    pub folder: Arc<Folder>,
    pub rules: Arc<Rules>,
}

/// A request for a file of the operator's.
#[derive(Debug)]
pub(crate) struct FileCall<'a> {
    pub path: OperatorPath<'a>,
    pub requester: Requester,
    /// What the client says of its hardware; empty if it says nothing. DHCP has no serial number.
    pub serial: String,
    pub uuid: String,
    /// The content is sent, and not only its length.
    pub is_get: bool,
}

/// Reason why a client does not get a file of the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OperatorFileError {
    #[error("there is no such file")]
    NotFound,
    #[error("files are for machines that boot from here, and this address is not known as that of one")]
    NotAMachine,
    #[error("this file is for another machine")]
    OfAnother,
    #[error("this file is handed out once in each boot, and it was")]
    Taken,
    /// The operator's fault.
    #[error("the file could not be made; the log of the server says why")]
    Failed,
}

impl OperatorFiles {
    /// Returns whether a file is for some machines only, and once.
    ///
    /// # Errors
    /// `OfAnother` if this machine is not among them.
    pub(crate) fn is_secret(
        &self,
        call: &FileCall<'_>,
        machine: &KnownMachine,
    ) -> Result<bool, OperatorFileError> {
        let path = call.path.names.join("/");
        let holders: Vec<_> = self.rules.holders_of(&path).collect();
        match machine.mac {
            _ if holders.is_empty() => Ok(false),
            // The MAC address in the path is what the client says.
            Some(mac) if holders.contains(&mac) => Ok(true),
            _ => Err(OperatorFileError::OfAnother),
        }
    }

    /// Reads or makes the file for this machine. May wait for the disk.
    ///
    /// # Errors
    /// `NotFound`, and `Failed` with a line in the log.
    pub(crate) fn content(
        &self,
        call: &FileCall<'_>,
        machine: &KnownMachine,
    ) -> Result<Vec<u8>, OperatorFileError> {
        let content = self.folder.file_for(&call.path.names, &self.facts(call, machine));
        content.map_err(|error| match error {
            FolderError::NotFound | FolderError::NotAFile(_) => OperatorFileError::NotFound,
            error => {
                let mac = machine.mac.map(|mac| mac.to_string());
                let peer = call.requester.address.map(display);
                warn!(peer, mac, "file for a machine not made: {error}");
                OperatorFileError::Failed
            }
        })
    }

    fn facts(&self, call: &FileCall<'_>, machine: &KnownMachine) -> Facts {
        let FileCall { path, requester, serial, uuid: told, .. } = call;
        let mac = machine.mac.or(path.recipient.machine);
        let rule = self.rules.for_machine(path.recipient, mac);
        let name = rule.and_then(|rule| rule.name.as_ref()).map(Word::to_string);
        Facts {
            mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
            hostname: hostname(rule).or(machine.host_name.clone()).unwrap_or_default(),
            name: name.unwrap_or_default(),
            address: requester.address.map(|address| address.to_string()).unwrap_or_default(),
            serial: serial.clone(),
            uuid: uuid(told, machine),
            server: requester.server.to_string(),
            image: image(machine, rule),
        }
    }
}

fn hostname(rule: Option<&Rule>) -> Option<String> {
    let rule = rule?;
    rule.hostname.as_ref().or(rule.name.as_ref()).map(Word::to_string)
}

/// Returns what the client says of itself, else what its firmware said by DHCP.
fn uuid(told: &str, machine: &KnownMachine) -> String {
    let by_dhcp = || machine.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    if told.is_empty() { by_dhcp() } else { told.to_owned() }
}

fn image(machine: &KnownMachine, rule: Option<&Rule>) -> String {
    let of_rule = || rule.and_then(|rule| rule.image.as_ref()).map(Word::to_string);
    machine.image.clone().or_else(of_rule).unwrap_or_default()
}
