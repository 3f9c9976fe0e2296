/* Runs children and checks their statuses, beside a thread that makes garbage; each child leaves an orphan behind. */
class Load {
    public static void main(String[] arguments) throws Exception {
        Thread busy = new Thread(() -> {
            while (true) {
                long sum = 0;
                for (int i = 0; i < 2000; i++) sum += new long[] {i, i}[1];
                if (sum != 1999000) System.out.println("fault sum");
                try { Thread.sleep(1); } catch (InterruptedException e) { System.out.println("fault interrupted"); }
            }
        });
        busy.setDaemon(true);
        busy.start();
        for (int number = 1;; number++) {
            int wanted = number % 100;
            int status = new ProcessBuilder("sh", "-c", "sleep 0 & exit " + wanted).start().waitFor();
            if (status != wanted) System.out.println("fault " + number + " " + status);
            System.out.println("tick " + number);
            Thread.sleep(20);
        }
    }
}
