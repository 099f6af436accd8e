//! Systems with unusual limits.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use testkit::shipped::{Shipped, program};

#[tokio::test]
async fn a_file_that_may_not_grow_does_not_end_the_process() -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // Not even the log can be written then.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 0; exec \"$0\" \"$@\"", program()]);
    let text = format!("[web]\nlisten = \"127.0.0.1:{port}\"\n[[camera]]\nname = \"main\"\nsource = \"test\"\n");
    let mut shipped = Shipped::start(command, &text)?;
    let (page, deadline) = (format!("http://127.0.0.1:{port}"), Instant::now() + Duration::from_secs(20));
    while let Err(error) = shipped.status(&page, "").await {
        ensure!(shipped.end()?.is_none(), "it has ended: {:?}", shipped.end()?);
        ensure!(Instant::now() < deadline, "{error:#}");
        sleep(Duration::from_millis(50)).await;
    }
    shipped.stop().await
}
