//! Access control. Each entry point has its own function here that makes its [`Grant`]; every call, command and request
//! has a grant, and code that serves it checks the grant and never the entry point.
//!
//! [`Operation`] lists everything that clients can request, and [`Operation::right`] is the right that each needs. An
//! entry point that gives less (a link for one camera until tomorrow) is another function here and changes nothing
//! elsewhere.

use std::fmt;
use std::time::Instant;

/// A right that a grant may include.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// See a camera's picture.
    View,
    /// Receive its sound.
    Listen,
    /// Send sound to the board.
    Talk,
    /// Read the board's state, and change pictures, sound, controls and privacy.
    Control,
    /// Read and change the configuration, restart, change the log level, end other viewers' sessions.
    Admin,
    /// Name files of the board in a configuration. Their holder owns the board; others could read files through it.
    NameFiles,
}

impl Right {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The holder of a grant, for logs and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A program or browser of this machine, where the board has no secret.
    Loopback,
    /// A program or browser that sent the secret.
    Secret,
    /// A browser or page that has logged in with the secret.
    Login,
    /// A viewer behind the broker.
    BrokerViewer,
    /// A publisher on the broker's command topic.
    BrokerOperator,
    /// The board itself, for plain values of a home automation.
    HomeAutomation,
}

/// The rights of one subject, for one camera or all, until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    subject: Subject,
    rights: u8,
    /// The only camera; `None` for all of them.
    camera: Option<String>,
    /// When it ends; `None` for never.
    until: Option<Instant>,
}

/// Why an operation is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The grant lacks this right.
    Lacks(Subject, Right),
    /// The grant is for this camera alone.
    OtherCamera(String),
    /// The grant has ended.
    Ended,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacks(Subject::BrokerViewer, Right::Control | Right::Admin) => {
                f.write_str("this viewer may watch only; send commands to the command topic")
            }
            Self::Lacks(_, right) => {
                let what = match right {
                    Right::View => "see pictures",
                    Right::Listen => "hear sound",
                    Right::Talk => "be heard at the board",
                    Right::Control => "control the cameras",
                    Right::Admin => "administer the board",
                    Right::NameFiles => "name files of the board",
                };
                write!(f, "you may not {what}; ask the board's owner for access that includes it")
            }
            Self::OtherCamera(camera) => write!(f, "this access is for the camera `{camera}` only"),
            Self::Ended => f.write_str("this access has ended; ask the board's owner for another"),
        }
    }
}

impl Grant {
    const EVERYTHING_BY_PAGE: [Right; 4] = [Right::View, Right::Listen, Right::Control, Right::Admin];

    fn new(subject: Subject, rights: &[Right]) -> Self {
        Self { subject, rights: rights.iter().fold(0, |all, right| all | right.bit()), camera: None, until: None }
    }

    /// Of a request that came by loopback to a board without a secret.
    pub fn loopback() -> Self {
        Self::new(Subject::Loopback, &Self::EVERYTHING_BY_PAGE)
    }

    /// Of a request that brings the secret.
    pub fn secret() -> Self {
        Self::new(Subject::Secret, &Self::EVERYTHING_BY_PAGE)
    }

    /// Of a request that brings the cookie or the token of a login.
    pub fn login() -> Self {
        Self::new(Subject::Login, &Self::EVERYTHING_BY_PAGE)
    }

    /// Of a viewer behind the broker. The broker's access control admits viewers; it covers topics and not data
    /// channels, so a viewer that it lets watch may not send commands.
    pub fn broker_viewer() -> Self {
        Self::new(Subject::BrokerViewer, &[Right::View, Right::Listen])
    }

    /// Of a command on the broker's command topic, whose publishers own the board.
    pub fn broker_operator() -> Self {
        Self::new(Subject::BrokerOperator, &[Right::Control, Right::Admin, Right::NameFiles])
    }

    /// Of a command that the board makes from a home automation's plain value.
    pub fn home_automation() -> Self {
        Self::new(Subject::HomeAutomation, &[Right::Control, Right::Admin])
    }

    /// Whether it is for one camera alone.
    pub fn is_of_one_camera(&self) -> Option<Denied> {
        self.camera.clone().map(Denied::OtherCamera)
    }

    /// Its holder.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// When it ends.
    pub fn end(&self) -> Option<Instant> {
        self.until
    }

    /// Whether it includes `right`.
    pub fn includes(&self, right: Right) -> bool {
        self.rights & right.bit() != 0
    }

    /// Whether it allows `operation` at `now`. What concerns a camera needs [`camera`](Self::camera) too.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn allows(&self, operation: Operation, now: Instant) -> Result<(), Denied> {
        if self.until.is_some_and(|end| end <= now) {
            return Err(Denied::Ended);
        }
        match operation.right() {
            Some(right) if !self.includes(right) => Err(Denied::Lacks(self.subject, right)),
            _ => Ok(()),
        }
    }

    /// The camera for a request that names the camera `asked`, or none: a grant for one camera selects that one.
    ///
    /// # Errors
    ///
    /// When the grant is for another camera.
    pub fn camera(&self, asked: Option<&str>) -> Result<Option<String>, Denied> {
        match (&self.camera, asked) {
            (None, asked) => Ok(asked.map(str::to_owned)),
            (Some(only), Some(asked)) if asked != only => Err(Denied::OtherCamera(only.clone())),
            (Some(only), _) => Ok(Some(only.clone())),
        }
    }
}

/// Declares [`Operation`] with the list of all of them and the right that each needs, so that none can be added without
/// a decision.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $right:expr,)*) => {
        /// Everything that clients can request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The right that it needs; `None` if even strangers may use it.
            pub const fn right(self) -> Option<Right> {
                match self {
                    $(Self::$name => $right,)*
                }
            }
        }
    };
}

operations! {
    /// The page with its files, or the login form in its place.
    LoadPage: None,
    /// Whether the service works.
    ReadHealth: None,
    /// Try a secret.
    LogIn: None,
    /// End one's own login.
    LogOut: None,
    /// Open the signalling WebSocket. Its first message contains STUN and TURN servers, with credentials.
    OpenSignalling: Some(Right::View),
    /// Open it for commands alone.
    OpenCommands: Some(Right::Control),
    /// Use the WHEP endpoint.
    UseWhep: Some(Right::View),
    /// Get a camera's picture over a peer connection.
    Watch: Some(Right::View),
    /// Get its sound.
    Hear: Some(Right::Listen),
    /// Get a JPEG over HTTP.
    LoadSnapshot: Some(Right::View),
    /// Get the status over HTTP; the page reads the cameras' names from it.
    ReadStatus: Some(Right::View),
    /// Get the schema of the commands.
    ReadSchema: Some(Right::View),
    /// Get the metrics.
    ReadMetrics: Some(Right::Admin),
    /// The command `get-status`.
    GetStatus: Some(Right::Control),
    /// The command `get-config`.
    GetConfig: Some(Right::Admin),
    /// The command `set-video`.
    SetVideo: Some(Right::Control),
    /// The command `set-audio`.
    SetAudio: Some(Right::Control),
    /// The command `list-controls`.
    ListControls: Some(Right::Control),
    /// The command `set-control`.
    SetControl: Some(Right::Control),
    /// The command `ptz`.
    Ptz: Some(Right::Control),
    /// The command `snapshot`, whose picture may go to a topic.
    Snapshot: Some(Right::Control),
    /// The command `key-frame`.
    KeyFrame: Some(Right::Control),
    /// The command `list-viewers`.
    ListViewers: Some(Right::Control),
    /// The command `dismiss-viewer`.
    DismissViewer: Some(Right::Admin),
    /// The command `privacy`.
    Privacy: Some(Right::Control),
    /// The command `apply-config`.
    ApplyConfig: Some(Right::Admin),
    /// In `apply-config`, a configuration that names other files than the one in effect.
    NameFiles: Some(Right::NameFiles),
    /// The command `restart`.
    Restart: Some(Right::Admin),
    /// The command `set-log-level`.
    SetLogLevel: Some(Right::Admin),
    /// The command `doctor`.
    Doctor: Some(Right::Admin),
    /// The command `identify`.
    Identify: Some(Right::Control),
}

/// Restrictions that no entry point uses yet.
#[cfg(test)]
impl Grant {
    /// The same for one camera alone.
    pub fn of_camera(self, camera: &str) -> Self {
        Self { camera: Some(camera.into()), ..self }
    }

    /// The same until `end`.
    pub fn until(self, end: Instant) -> Self {
        Self { until: Some(end), ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The allowed operations. `L` is loopback, `S` the secret, `C` a login (cookie or token), `V` a viewer behind the
    /// broker, `O` the broker's command topic, `H` a home automation.
    const TABLE: &str = "
        LoadPage        L S C V O H
        ReadHealth      L S C V O H
        LogIn           L S C V O H
        LogOut          L S C V O H
        OpenSignalling  L S C V - -
        OpenCommands    L S C - O H
        UseWhep         L S C V - -
        Watch           L S C V - -
        Hear            L S C V - -
        LoadSnapshot    L S C V - -
        ReadStatus      L S C V - -
        ReadSchema      L S C V - -
        ReadMetrics     L S C - O H
        GetStatus       L S C - O H
        GetConfig       L S C - O H
        SetVideo        L S C - O H
        SetAudio        L S C - O H
        ListControls    L S C - O H
        SetControl      L S C - O H
        Ptz             L S C - O H
        Snapshot        L S C - O H
        KeyFrame        L S C - O H
        ListViewers     L S C - O H
        DismissViewer   L S C - O H
        Privacy         L S C - O H
        ApplyConfig     L S C - O H
        NameFiles       - - - - O -
        Restart         L S C - O H
        SetLogLevel     L S C - O H
        Doctor          L S C - O H
        Identify        L S C - O H";

    /// All entry points, with their letters in the table. A new subject does not compile without one.
    fn entry_points() -> Vec<(char, Grant)> {
        let letter = |grant: &Grant| match grant.subject {
            Subject::Loopback => 'L',
            Subject::Secret => 'S',
            Subject::Login => 'C',
            Subject::BrokerViewer => 'V',
            Subject::BrokerOperator => 'O',
            Subject::HomeAutomation => 'H',
        };
        let grants = [
            Grant::loopback(),
            Grant::secret(),
            Grant::login(),
            Grant::broker_viewer(),
            Grant::broker_operator(),
            Grant::home_automation(),
        ];
        grants.into_iter().map(|grant| (letter(&grant), grant)).collect()
    }

    #[test]
    fn each_operation_is_allowed_as_the_table_states() {
        let now = Instant::now();
        let row = |operation: &Operation| {
            let of =
                |(letter, grant): &(char, Grant)| if grant.allows(*operation, now).is_ok() { *letter } else { '-' };
            let letters: Vec<_> = entry_points().iter().map(|entry_point| of(entry_point).to_string()).collect();
            format!("{:<15} {}", format!("{operation:?}"), letters.join(" "))
        };
        let found: Vec<_> = Operation::ALL.iter().map(row).collect();
        let wanted: Vec<_> = TABLE.trim().lines().map(str::trim).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_grant_for_one_camera_selects_it_and_refuses_others() {
        let all = Grant::secret();
        assert_eq!(all.camera(None), Ok(None));
        assert_eq!(all.camera(Some("yard")), Ok(Some("yard".into())));
        let one = Grant::secret().of_camera("door");
        assert_eq!(one.camera(None), Ok(Some("door".into())));
        assert_eq!(one.camera(Some("door")), Ok(Some("door".into())));
        assert_eq!(one.camera(Some("yard")), Err(Denied::OtherCamera("door".into())));
    }

    #[test]
    fn a_grant_that_has_ended_allows_nothing() {
        let now = Instant::now();
        let grant = Grant::secret().until(now + Duration::from_secs(1));
        assert_eq!(grant.allows(Operation::Watch, now), Ok(()));
        assert_eq!(grant.allows(Operation::Watch, now + Duration::from_secs(1)), Err(Denied::Ended));
        assert_eq!(grant.allows(Operation::LoadPage, now + Duration::from_secs(1)), Err(Denied::Ended));
    }

    #[test]
    fn a_denial_states_the_reason_and_the_remedy() {
        for (grant, operation, words) in [
            (Grant::broker_viewer(), Operation::Ptz, "send commands to the command topic"),
            (Grant::broker_viewer(), Operation::Restart, "send commands to the command topic"),
            (Grant::home_automation(), Operation::Watch, "may not see pictures"),
            (Grant::secret(), Operation::NameFiles, "may not name files"),
        ] {
            let denied = grant.allows(operation, Instant::now()).unwrap_err();
            assert!(denied.to_string().contains(words), "{denied}");
        }
    }
}
