//! Where the boards are tried: the image, the test's equipment, a household's network with a broker in it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::broker::{Broker, Listener, Listeners};
use crate::card::Card;
use crate::equipment;
use crate::household::Household;
use crate::machine::{Cable, Firmware, Machine, Plan};
use crate::namespace::HOST;
use crate::visitor::Visitor;

/// Where the shipped configuration has the page.
pub const PORT: u16 = 8080;

/// All that the boards have in common.
pub struct Place {
    /// The image.
    pub image: PathBuf,
    /// The test's disk.
    pub equipment: PathBuf,
    /// Addresses and names.
    pub household: Household,
    /// With the users [`DEVICE`] and an operator.
    pub broker: Broker,
    directory: TempDir,
}

/// The name and password with which the broker lets the board in.
pub const DEVICE: (&str, &str) = ("front-door", "let the door in");
const OPERATOR: (&str, &str) = ("operator", "let the operator in");

impl Place {
    /// With what `tests/image/make` made.
    pub async fn set_up(made: &Path) -> Result<Self> {
        // Cards and saved states of 1 GB and more do not belong into a /tmp that may be memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let image = made.join("image").canonicalize().context("the image")?;
        let equipment = equipment::make(made, directory.path())?;
        let household = Household::start()?;
        let listeners = Listeners::of(&[Listener::Plain]).at(IpAddr::V4(HOST));
        let listeners = listeners.user(DEVICE.0, DEVICE.1).user(OPERATOR.0, OPERATOR.1);
        let broker = Broker::start(listeners).await?;
        Ok(Self { image, equipment, household, broker, directory })
    }

    /// A card with the image, fresh.
    pub fn card(&self, name: &str) -> Result<Card> {
        Card::flash(&self.image, self.file(&format!("{name}.qcow2")))
    }

    /// Where a test may put a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a card into a board, and that into this network, and switches it on.
    pub async fn power_on(&self, card: &Card, board: &Board<'_>) -> Result<Machine> {
        let Board { name, firmware, mac, clock } = *board;
        let equipment = &self.equipment;
        Machine::power_on(&Plan { firmware, card, equipment, cable: Cable::Tap, mac, clock, state: None, name }).await
    }

    /// Somebody who knows the secret of a board, once that has an address.
    pub async fn visitor(&mut self, board: &Board<'_>, secret: &str) -> Result<Visitor> {
        Visitor::new(SocketAddr::from((self.household.address(board.mac).await?, PORT)), secret)
    }
}

/// What tells one board from another.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    /// What its logs are called.
    pub name: &'a str,
    /// What it starts with.
    pub firmware: Firmware,
    /// Its network port's address: of those that nobody is given (locally administered, IEEE 802-2014, 8.4).
    pub mac: &'a str,
    /// What its clock shows at power-on, as QEMU's `-rtc base=` takes it.
    pub clock: &'a str,
}
