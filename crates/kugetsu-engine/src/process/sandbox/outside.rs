//! The guard's side of a sandbox.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::enter::{receive, send};
use super::landlocked::Rules;
use super::{Backend, ENTER_COMMAND, Entry, Host, INSIDE, PROXY_PORT, Sandbox, bubblewrap, proxy};

/// A sandbox that the guard is about to start.
pub(in crate::process) struct Outside {
    sandbox: Sandbox,
    control: UnixStream,
    /// Where the supervisor reaches the program's server.
    serve: Option<TcpListener>,
    /// The proxy, if it listens outside.
    proxy: Option<TcpListener>,
}

impl Outside {
    /// Returns the command that enters the sandbox in `directory`, and the rest that follows once it runs.
    pub(in crate::process) fn prepare(
        sandbox: Sandbox,
        directory: &Path,
    ) -> std::io::Result<(Command, Self)> {
        let (ours, theirs) = UnixStream::pair()?;
        let own = std::env::current_exe()?;
        let (mut command, proxy) = match &sandbox.backend {
            Backend::Bubblewrap(found) => {
                let mut command = Command::new(&found.program);
                command.args(bubblewrap::arguments(found, &sandbox, &own, directory));
                command.arg(Path::new(INSIDE).join("kugetsu"));
                (command, None)
            }
            Backend::Landlock => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                (Command::new(&own), Some(listener))
            }
        };
        let port = match &proxy {
            Some(listener) => listener.local_addr()?.port(),
            None => PROXY_PORT,
        };
        let url = format!("http://127.0.0.1:{port}");
        command
            .arg(ENTER_COMMAND)
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env(name, &url);
        }
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "localhost,127.0.0.1,::1");
        }
        let serve = match (&sandbox.backend, sandbox.network.serve) {
            (Backend::Bubblewrap(_), Some(_)) => Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
            _ => None,
        };
        Ok((
            command,
            Self {
                sandbox,
                control: ours,
                serve,
                proxy,
            },
        ))
    }

    /// The port on this machine's loopback that leads to the program's server, if it is another one than the program's
    /// own.
    pub(in crate::process) fn port(&self) -> Option<u16> {
        Some(self.serve.as_ref()?.local_addr().ok()?.port())
    }

    /// Whether the started command is an entrance that stays above the program.
    pub(in crate::process) fn is_entrance(&self) -> bool {
        matches!(self.sandbox.backend, Backend::Bubblewrap(_))
    }

    /// Lets the program begin with these bytes on its standard input, and serves its network from now on.
    pub(in crate::process) fn begin(
        self,
        program: OsString,
        args: Vec<OsString>,
        input: Vec<u8>,
    ) -> std::io::Result<()> {
        let network = &self.sandbox.network;
        let namespace = self.is_entrance();
        let mut listen = Vec::new();
        let mut landlock = None;
        if namespace {
            listen.push(PROXY_PORT);
            listen.extend(&network.loopback);
        } else {
            let mut rules = Rules::of(&self.sandbox.mounts);
            // The tools have rules of their own below these.
            rules.own = std::mem::take(&mut rules.write);
            rules.read.extend(bubblewrap::system().map(Into::into));
            rules.read.push(std::env::current_exe()?);
            let proxy = self.proxy.as_ref().map(TcpListener::local_addr).transpose()?;
            let ports = proxy
                .map(|address| address.port())
                .into_iter()
                .chain(network.loopback.iter().copied());
            rules.connect = Some(ports.collect());
            landlock = Some(rules);
        }
        let entry = Entry {
            program,
            args,
            listen,
            serve: if namespace { network.serve } else { None },
            landlock,
            // Without a namespace of its own, the limit would count all processes of the user.
            processes: self.sandbox.limits.processes.filter(|_| namespace),
        };
        let (stdin, mut feed) = std::io::pipe()?;
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let mut files = vec![stdin.as_fd()];
        files.extend(self.serve.as_ref().map(std::os::fd::AsFd::as_fd));
        send(&self.control, &line, &files)?;
        drop(stdin);
        // A program that does not read its input must not block the guard.
        thread("feed", move || {
            let _ = feed.write_all(&input);
        })?;
        let allowed: Arc<[Host]> = network.hosts.clone().into();
        let forwards = network.loopback.clone();
        let (control, proxy) = (self.control, self.proxy);
        thread("network", move || {
            // Ends with an error if the sandbox could not be entered. The program's end tells it.
            let Ok((_, listeners)) = receive(&control) else {
                return;
            };
            let mut listeners = listeners.into_iter().map(TcpListener::from);
            let proxy = proxy.or_else(|| if namespace { listeners.next() } else { None });
            if let Some(listener) = proxy {
                let _ = thread("proxy", move || {
                    proxy::serve(&listener, move |client| proxy::handle(client, &allowed));
                });
            }
            for (listener, port) in listeners.zip(forwards) {
                let _ = thread("forward", move || {
                    proxy::serve(&listener, move |client| {
                        if let Ok(server) = TcpStream::connect(("localhost", port)) {
                            proxy::pump(&client, &server);
                        }
                    });
                });
            }
        })
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
}
