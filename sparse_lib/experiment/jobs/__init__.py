"""Many runs as one resumable job."""
