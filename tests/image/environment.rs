//! The environment of the boards: the image, the disk of the test, a network with a broker in it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::api_client::ApiClient;
use crate::card::Card;
use crate::lan::Lan;
use crate::machine::{Cable, Firmware, Machine, Plan};
use crate::test_disk;
use testkit::broker::{Broker, Listener, Listeners};
use testkit::tap_network::HOST;

/// The page's port in the shipped configuration.
pub const PORT: u16 = 8080;

/// The parts that the boards share.
pub struct Environment {
    /// The image.
    pub image: PathBuf,
    /// The test's disk.
    pub equipment: PathBuf,
    /// Addresses and names.
    pub lan: Lan,
    /// With the users [`DEVICE`] and an operator.
    pub broker: Broker,
    directory: TempDir,
}

/// The board's name and password at the broker.
pub const DEVICE: (&str, &str) = ("front-door", "let the door in");
const OPERATOR: (&str, &str) = ("operator", "let the operator in");

impl Environment {
    /// With what `tests/image/make` made.
    pub async fn set_up(made: &Path) -> Result<Self> {
        // Cards and saved states have 1 GB and more, too much for a /tmp in memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let image = made.join("image").canonicalize().context("the image")?;
        let equipment = test_disk::make(made, directory.path())?;
        let lan = Lan::start()?;
        let listeners = Listeners::of(&[Listener::Plain]).at(IpAddr::V4(HOST));
        let listeners = listeners.user(DEVICE.0, DEVICE.1).user(OPERATOR.0, OPERATOR.1);
        let broker = Broker::start(listeners).await?;
        Ok(Self { image, equipment, lan, broker, directory })
    }

    /// A new card with the image.
    pub fn card(&self, name: &str) -> Result<Card> {
        Card::flash(&self.image, self.file(&format!("{name}.qcow2")))
    }

    /// Where a test may put a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Boots a board in this network with a card.
    pub async fn power_on(&self, card: &Card, board: &Board<'_>) -> Result<Machine> {
        let Board { name, firmware, mac, clock } = *board;
        let equipment = &self.equipment;
        Machine::power_on(&Plan { firmware, card, equipment, cable: Cable::Tap, mac, clock, state: None, name }).await
    }

    /// A client with the secret of a board, once that has an address.
    pub async fn api(&mut self, board: &Board<'_>, secret: &str) -> Result<ApiClient> {
        ApiClient::new(SocketAddr::from((self.lan.address(board.mac).await?, PORT)), secret)
    }
}

/// The properties of one board.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    /// Name of its logs.
    pub name: &'a str,
    /// Its firmware.
    pub firmware: Firmware,
    /// Its MAC address, from the range without a manufacturer (locally administered, IEEE 802-2014, 8.4).
    pub mac: &'a str,
    /// Its clock at power-on, in the notation of QEMU's `-rtc base=`.
    pub clock: &'a str,
}
