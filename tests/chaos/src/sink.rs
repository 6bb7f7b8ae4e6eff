//! The receiver of the effects of the processes.

use std::{io, path::Path, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::history::History;

/// Stores the effects that processes report.
pub(crate) fn open(socket: &Path, history: Arc<History>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let history = Arc::clone(&history);
            // A process that dies in between has had no effect.
            tokio::spawn(async move { serve(stream, &history).await.ok() });
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, history: &History) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line).await?;
    let answer = match history.effect(serde_json::from_str(&line)?) {
        true => "done\n",
        false => "a later engine owns the run\n",
    };
    to.write_all(answer.as_bytes()).await
}
