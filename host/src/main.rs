fn main() -> std::process::ExitCode {
    rollcall::main()
}
