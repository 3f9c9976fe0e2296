// Runs children and checks their statuses; each leaves an orphan behind.
class Load {
    static void Main() {
        for (int number = 1;; number++) {
            var child = System.Diagnostics.Process.Start(
                new System.Diagnostics.ProcessStartInfo("/bin/sh", "-c \"sleep 0 & exit " + number % 100 + "\"") { UseShellExecute = false });
            child.WaitForExit();
            if (child.ExitCode != number % 100) System.Console.WriteLine("fault " + number + " " + child.ExitCode);
            System.Console.WriteLine("tick " + number);
            System.Threading.Thread.Sleep(20);
        }
    }
}
