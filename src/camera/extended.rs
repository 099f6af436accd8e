//! What only the `rscam` crate (0.5) gives of a device's controls without unsafe code: the titles of menus, and controls of
//! 64 bits.

use std::io;
use std::path::Path;

use rscam::CtrlData;

use super::controls::Choice;
use super::node::words;

/// The device at this path, which is opened for each question: so `rscam` has it.
pub(super) struct Extended<'a>(pub(super) &'a Path);

impl Extended<'_> {
    fn ask<T>(&self, question: impl FnOnce(rscam::Camera) -> io::Result<T>) -> io::Result<T> {
        let path = self.0.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        rscam::Camera::new(path).and_then(question)
    }

    /// The values of a menu with the driver's names for them; none where it does not tell. Only for a menu whose
    /// first and last value are sound: all between them are asked for.
    pub(super) fn menu(&self, id: u32) -> Vec<Choice> {
        let choice = |index: u32, title: String| Choice { value: i64::from(index), title: words(title.as_bytes()) };
        match self.ask(|camera| camera.get_control(id)).map(|control| control.data) {
            Ok(CtrlData::Menu { items, .. }) => items.into_iter().map(|item| choice(item.index, item.name)).collect(),
            Ok(CtrlData::IntegerMenu { items, .. }) => {
                items.into_iter().map(|item| choice(item.index, item.value.to_string())).collect()
            }
            _ => vec![],
        }
    }

    /// The value of a control of 64 bits, where the driver tells.
    pub(super) fn wide(&self, id: u32) -> Option<i64> {
        match self.ask(|camera| camera.get_control(id)).ok()?.data {
            CtrlData::Integer64 { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Sets a control of 64 bits.
    pub(super) fn set_wide(&self, id: u32, value: i64) -> io::Result<()> {
        self.ask(|camera| camera.set_control(id, &value))
    }
}
